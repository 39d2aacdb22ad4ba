"""Tune: trains a text classifier on labelled texts in one of three ways. On a CPU, a seed gives the same weights.

``full`` trains every weight. ``lora`` trains low-rank additions to the linear layers, and merges them at the end
(Hu et al. 2021). ``frozen`` embeds each text once and trains only the head, which takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from model_export.network.event_bert import ROW_COPIES
from model_export.text.encoder import TextBert, Vectors
from model_export.text.settings import TextFit
from stream.arrays import Counts, Rows, Slots
from stream.score.sentiment import LABELS, padded

__all__ = ["TextClassifier", "Tokenised", "Tuned", "logits", "tune"]

#: Logits ``(n, classes)``.
Logits: TypeAlias = npt.NDArray[np.float32]
#: Texts are shuffled in pools of this many batches; within a pool, batches are made of texts of like length.
_POOL_BATCHES: Final = 16
_EVALUATED_ROWS: Final = 64


class TextClassifier(nn.Module):
    """A text BERT with a linear head: ``ids`` and ``mask (batch, length)`` → logits ``(batch, classes)``."""

    def __init__(self, encoder: TextBert, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(encoder.width, classes))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits of each class."""
        # Copies of each row, as in the event BERT: in onnxruntime a row then scores the same alone and in any batch.
        copies = self.encoder(ids, mask).unsqueeze(1).expand(-1, ROW_COPIES, -1)
        out: Tensor = self.head(copies)[:, 0]
        return out


@dataclass(frozen=True, slots=True)
class Tokenised:
    """Token numbers of ``n`` texts, and their classes ``(n,)``."""

    ids: list[list[int]]
    labels: Slots

    @property
    def lengths(self) -> Counts:
        """How many tokens each text has, ``(n,)``."""
        return np.array([len(row) for row in self.ids])

    def inputs(self, rows: Rows) -> tuple[Tensor, ...]:
        """The inputs of the classifier for these rows."""
        tokens, mask = padded([self.ids[row] for row in rows.tolist()])
        return torch.from_numpy(tokens), torch.from_numpy(mask)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """Vectors ``(n, width)`` of texts. A frozen encoder computes them only once."""

    vectors: Vectors
    labels: Slots

    @property
    def lengths(self) -> Counts:
        return np.ones(len(self.labels), np.int64)

    def inputs(self, rows: Rows) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self.vectors[rows]),)


@dataclass(frozen=True, slots=True)
class Tuned:
    """Validation losses, starting with that of the untrained head, and the epoch that was kept."""

    losses: list[float]
    best_epoch: int


def tune(
    classifier: TextClassifier, train: Tokenised, validation: Tokenised, *, fit: TextFit, progress: Progress
) -> Tuned:
    """Train in place by ``fit.mode``. Afterwards the classifier is in evaluation mode and has plain weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(fit.threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    classifier.to(device)
    torch.manual_seed(fit.seed)
    encoder, head = classifier.encoder, classifier.head
    if fit.mode == "frozen":
        vectors = [_Embedded(encoder.embed_ids(part.ids), part.labels) for part in (train, validation)]
        tuned = _descend(head, vectors[0], vectors[1], fit=fit, progress=progress)
    elif fit.mode == "lora":
        encoder.bert = _with_lora(encoder.bert, fit)
        tuned = _descend(classifier, train, validation, fit=fit, progress=progress)
        encoder.bert = encoder.bert.merge_and_unload()  # type: ignore[operator]
    else:
        tuned = _descend(classifier, train, validation, fit=fit, progress=progress)
    classifier.requires_grad_(True).eval()
    return tuned


@torch.no_grad()
def logits(classifier: TextClassifier, ids: Sequence[Sequence[int]]) -> Logits:
    """Logits ``(n, classes)`` of tokenised texts, in their order."""
    vectors = torch.from_numpy(classifier.encoder.embed_ids(ids)).to(next(classifier.parameters()).device)
    out: Logits = classifier.eval().head(vectors).cpu().numpy()
    return out


def _with_lora(bert: nn.Module, fit: TextFit) -> nn.Module:
    """The BERT with trainable low-rank additions; its own weights are frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=fit.lora_rank, lora_alpha=2 * fit.lora_rank, lora_dropout=fit.dropout, target_modules="all-linear"
    )
    return get_peft_model(bert, config)


def _descend(
    network: nn.Module,
    train: Tokenised | _Embedded,
    validation: Tokenised | _Embedded,
    *,
    fit: TextFit,
    progress: Progress,
) -> Tuned:
    """AdamW with warm-up, cosine decay and clipped gradients. It stops when the validation loss stops falling."""
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    steps = fit.epochs * math.ceil(len(train.labels) / fit.batch_size)
    adam = torch.optim.AdamW(weights.values(), fit.learning_rate, weight_decay=fit.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _rate(step, steps, fit.warmup))
    rng = np.random.default_rng(fit.seed)
    balance = _class_weights(train.labels, fit)
    losses = [_validation_loss(network, validation, fit, balance)]
    best = {name: weight.detach().clone() for name, weight in weights.items()}
    task = progress.add_task(f"training ({fit.mode})", total=steps)
    while len(losses) <= fit.epochs and len(losses) - 1 - losses.index(min(losses)) < fit.patience:
        network.train()
        for rows in _batches(train.lengths, fit.batch_size, rng):
            adam.zero_grad()
            _loss(network, train, rows, fit=fit, balance=balance).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights.values(), fit.clip_norm)
            adam.step()
            schedule.step()
            progress.advance(task)
        losses.append(_validation_loss(network, validation, fit, balance))
        if losses[-1] < min(losses[:-1]):
            best = {name: weight.detach().clone() for name, weight in weights.items()}
    progress.update(task, completed=steps)
    network.load_state_dict(best, strict=False)
    return Tuned(losses, losses.index(min(losses)))


def _batches(lengths: Counts, size: int, rng: np.random.Generator) -> Iterator[Rows]:
    """All rows once, shuffled, in batches of like length."""
    order = rng.permutation(len(lengths))
    batches = []
    for begin in range(0, len(order), size * _POOL_BATCHES):
        pool = order[begin : begin + size * _POOL_BATCHES]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    for i in rng.permutation(len(batches)).tolist():
        yield batches[i]


def _rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate at a step, as a factor: a linear warm-up, then half a cosine down to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _class_weights(labels: Slots, fit: TextFit) -> Tensor:
    """The weight of each class: 1, or the inverse of its frequency, scaled to a mean of 1 over the texts."""
    counts = np.bincount(labels, minlength=len(LABELS))
    weights = len(labels) / (len(counts) * np.maximum(counts, 1)) if fit.class_weights else np.ones(len(counts))
    return torch.from_numpy(weights.astype(np.float32))


def _loss(network: nn.Module, part: Tokenised | _Embedded, rows: Rows, *, fit: TextFit, balance: Tensor) -> Tensor:
    """The weighted cross-entropy of these rows; on CUDA in bfloat16 if the settings say so."""
    device = next(network.parameters()).device
    half = fit.mixed_precision and device.type == "cuda"
    inputs = [tensor.to(device) for tensor in part.inputs(rows)]
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        outputs = network(*inputs)
    labels = torch.from_numpy(part.labels[rows]).to(device)
    return functional.cross_entropy(outputs.float(), labels, balance.to(device))


@torch.no_grad()
def _validation_loss(network: nn.Module, part: Tokenised | _Embedded, fit: TextFit, balance: Tensor) -> float:
    """The mean loss over all rows, without dropout."""
    network.eval()
    order = np.argsort(part.lengths, kind="stable")
    batches = [order[begin : begin + _EVALUATED_ROWS] for begin in range(0, len(order), _EVALUATED_ROWS)]
    total = sum(float(_loss(network, part, rows, fit=fit, balance=balance)) * len(rows) for rows in batches)
    return total / len(order)
