"""Sentiment training: turns labelled reviews into a run folder with a tuned text BERT and its metrics. No pickle.

::

    sentiment-run.json   settings, counts, temperature, metrics
    encoder/             the text BERT, as a checkpoint that Hugging Face reads
    head.safetensors     the linear head
    sample.jsonl         some texts of the test part with their labels; export uses them to decide on int8
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score, log_loss

from model_export.files import replaced
from model_export.metrics.measures import ece
from model_export.metrics.ranking import rank_predictions
from model_export.text.encoder import TextBert
from model_export.text.labelled import Columns, LabelledTexts, Split, read_labelled, span, split
from model_export.text.settings import TextFit
from model_export.text.tune import TextClassifier, Tokenised, Tuned, logits, tune
from stream.arrays import Numbers, Probabilities, Slots
from stream.errors import ConfigError, ContractError
from stream.iso_time import iso_seconds
from stream.score.sentiment import LABELS, softmax, token_ids

__all__ = ["FittedSentiment", "SentimentRun", "fit_sentiment", "load_sentiment_run", "text_metrics", "train_sentiment"]

RUN_FILE: Final = "sentiment-run.json"
HEAD_FILE: Final = "head.safetensors"
ENCODER_FOLDER: Final = "encoder"
SAMPLE_FILE: Final = "sample.jsonl"
SAMPLE_TEXTS: Final = 500
#: The temperatures that are tried, 3 % apart.
_TEMPERATURES: Final = np.geomspace(0.2, 5.0, 110)


class LabelledText(msgspec.Struct, frozen=True):
    """A text and its class, an index into ``LABELS``."""

    text: str
    label: int


class SentimentRun(msgspec.Struct, frozen=True):
    """One training: its settings and results, without the weights."""

    name: str
    version: str
    checkpoint: str
    fit: TextFit
    #: File name of the texts, and the column that kept the parts apart: time or user.
    source: str
    split_by: str
    #: First and last time, ISO 8601; empty if users keep the parts apart.
    trained_on: tuple[str, str]
    #: Texts of each part, repeats that were left out, epochs that were run, and the epoch that was kept.
    counts: dict[str, int]
    temperature: float
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class FittedSentiment:
    """A tuned classifier, the temperature of its logits, and its probabilities ``(n, 3)`` on the test part."""

    classifier: TextClassifier
    temperature: float
    tuned: Tuned
    probabilities: Probabilities


def train_sentiment(
    texts: Path, columns: Columns, out: Path, fit: TextFit, progress: Progress, *,
    name: str, checkpoint: str, rows_max: int, class_min: int,
) -> SentimentRun:  # fmt: skip
    """Read, split, tune, calibrate and measure; then write the run folder ``out`` in one step."""
    parts = split(read_labelled(texts, columns, rows_max), class_min)
    fitted = fit_sentiment(parts, checkpoint, fit, progress)
    counts = {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)}
    counts |= {"repeats": parts.repeats, "epochs": len(fitted.tuned.losses) - 1, "best_epoch": fitted.tuned.best_epoch}
    trained_on = tuple(
        iso_seconds(math.floor(key)) if columns.time else "" for key in span([parts.train, parts.validation])
    )
    with replaced(out, RUN_FILE) as new:
        run = SentimentRun(
            name=name,
            version=_save_weights(new, fitted.classifier),
            checkpoint=Path(checkpoint).name,
            fit=fit,
            source=texts.name,
            split_by="time" if columns.time else "user",
            trained_on=(trained_on[0], trained_on[1]),
            counts=counts,
            temperature=fitted.temperature,
            metrics=text_metrics(fitted.probabilities, parts.test.labels),
        )
        (new / SAMPLE_FILE).write_bytes(_sample(parts.test))
        (new / RUN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
    return run


def fit_sentiment(parts: Split, checkpoint: str, fit: TextFit, progress: Progress) -> FittedSentiment:
    """Tune a checkpoint on the training part. The validation part stops it early and gives the temperature."""
    import torch

    torch.manual_seed(fit.seed)
    encoder = TextBert.load(checkpoint, fit.max_length)
    classifier = TextClassifier(encoder, len(LABELS), fit.dropout)
    train, validation, test = (
        Tokenised(token_ids(encoder.tokenizer, part.texts), part.labels)
        for part in (parts.train, parts.validation, parts.test)
    )
    tuned = tune(classifier, train, validation, fit=fit, progress=progress)
    temperature = fit_temperature(logits(classifier, validation.ids), validation.labels)
    probabilities = softmax(logits(classifier, test.ids).astype(np.float64) / temperature)
    return FittedSentiment(classifier, temperature, tuned, probabilities)


def fit_temperature(outputs: Numbers, labels: Slots) -> float:
    """The temperature of least log-loss (Guo et al. 2017): logits ``(n, k)`` are divided by it.

    It is above 1 for an overconfident model.
    """
    rows = np.arange(len(labels))
    losses = [-np.log(softmax(outputs.astype(np.float64) / t)[rows, labels] + 1e-12).mean() for t in _TEMPERATURES]
    return round(float(_TEMPERATURES[int(np.argmin(losses))]), 4)


def text_metrics(probabilities: Probabilities, labels: Slots) -> dict[str, float]:
    """Accuracy, macro-F1, F1 by class, log-loss, and the calibration error of the predicted class."""
    called = probabilities.argmax(axis=1)
    classes = list(range(len(LABELS)))
    by_class = f1_score(labels, called, labels=classes, average=None, zero_division=0.0)
    clipped = np.clip(probabilities, 1e-7, 1.0)
    out = {
        "accuracy": float((called == labels).mean()),
        "macro_f1": float(np.mean(by_class)),
        **{f"f1_{name}": float(f1) for name, f1 in zip(LABELS, by_class, strict=True)},
        "log_loss": float(log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=classes)),
        "ece": ece(rank_predictions(probabilities.max(axis=1), (called == labels).astype(float))),
    }
    return {name: round(number, 5) for name, number in out.items()}


def load_sentiment_run(folder: Path) -> tuple[SentimentRun, TextClassifier, list[LabelledText]]:
    """The run, its classifier in evaluation mode, and its sample."""
    for name in (RUN_FILE, HEAD_FILE, SAMPLE_FILE):
        if not (folder / name).is_file():
            raise ConfigError(
                f"run folder {folder} has no {name}; give the --out of `valuestream-model sentiment train`"
            )
    try:
        run = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=SentimentRun)
        sample = [
            msgspec.json.decode(line, type=LabelledText) for line in (folder / SAMPLE_FILE).read_bytes().splitlines()
        ]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"run folder {folder} cannot be read: {error}; train again") from None
    encoder = TextBert.load(str((folder / ENCODER_FOLDER).absolute()), run.fit.max_length)
    classifier = TextClassifier(encoder, len(LABELS), run.fit.dropout)
    classifier.head.load_state_dict(load_file(folder / HEAD_FILE))
    return run, classifier.eval(), sample


def _save_weights(folder: Path, classifier: TextClassifier) -> str:
    """Write encoder and head. Returns the version: the beginning of the hash of both."""
    classifier.encoder.save(folder / ENCODER_FOLDER)
    save_file(classifier.head.state_dict(), folder / HEAD_FILE)
    weights = sorted((folder / ENCODER_FOLDER).glob("*.safetensors"))
    digest = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in [*weights, folder / HEAD_FILE]))
    return digest.hexdigest()[:12]


def _sample(texts: LabelledTexts) -> bytes:
    """Some texts spread over the part, one JSON object per line."""
    rows = np.unique(np.linspace(0, len(texts) - 1, min(SAMPLE_TEXTS, len(texts))).astype(int)).tolist()
    lines = (msgspec.json.encode(LabelledText(texts.texts[row], int(texts.labels[row]))) for row in rows)
    return b"".join(line + b"\n" for line in lines)
