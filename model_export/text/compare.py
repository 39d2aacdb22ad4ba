"""Compare: every way of tuning a text BERT beside TF-IDF with logistic regression, on the same split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.progress import Progress
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from model_export.text.labelled import LabelledTexts, Split, latest
from model_export.text.sentiment import fit_sentiment, text_metrics
from model_export.text.settings import FITS, Mode
from stream.score.sentiment import LABELS

__all__ = ["Compared", "baseline", "compare_sentiment", "f1_interval", "markdown"]

Array = npt.NDArray[Any]
#: Strengths of the baseline's penalty, of which the validation part chooses; words of two classes weigh alike or not.
_STRENGTHS: Final = (1.0, 3.0, 10.0)
_WEIGHTS: Final = (None, "balanced")
_RESAMPLES: Final = 1_000
_CHEAP: Final[tuple[Mode, ...]] = ("frozen",)
_COSTLY: Final[tuple[Mode, ...]] = ("lora", "full")


@dataclass(frozen=True, slots=True)
class Compared:
    """One model on the test part: metrics, the 95 % interval of its macro-F1, CPU seconds of training and measuring."""

    model: str
    train_texts: int
    metrics: dict[str, float]
    macro_f1: tuple[float, float]
    cpu_seconds: float


def compare_sentiment(parts: Split, checkpoint: str, train_max: int, progress: Progress) -> list[Compared]:
    """Measure the baseline and every mode; ``full`` and ``lora`` learn from the latest ``train_max`` training texts.

    They cost far more a text than the others, which learn from all; the baseline is measured on both. Early stopping
    and temperature have as many validation texts at most. The test part is whole for all.
    """
    some = Split(latest(parts.train, train_max), latest(parts.validation, train_max // 4), parts.test, parts.repeats)
    out = []
    for part, modes in ((parts, _CHEAP), (some, _COSTLY)):
        started = time.process_time()
        out.append(_compared("TF-IDF + logistic regression", part, baseline(part), started))
        for mode in modes:
            started = time.process_time()
            fitted = fit_sentiment(part, checkpoint, FITS[mode], progress)
            out.append(_compared(f"text BERT, {mode}", part, fitted.probabilities, started))
    return out


def f1_interval(probabilities: Array, labels: Array, seed: int = 0) -> tuple[float, float]:
    """95 % interval of macro-F1 over resamples of the texts."""
    k = len(LABELS)
    cells = labels * k + probabilities.argmax(axis=1)
    share = np.bincount(cells, minlength=k * k) / len(cells)
    counts = np.random.default_rng(seed).multinomial(len(cells), share, size=_RESAMPLES).reshape(-1, k, k)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(counts.sum(axis=1) + counts.sum(axis=2), 1)
    low, high = np.quantile(f1.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def markdown(rows: Sequence[Compared]) -> str:
    """The comparison as a table."""
    lines = [
        "| model | training texts | accuracy | macro-F1 [95 %] | F1 neg / neu / pos | log-loss | ECE | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        m, (low, high) = row.metrics, row.macro_f1
        by_class = " / ".join(f"{m[f'f1_{name}']:.3f}" for name in LABELS)
        lines.append(
            f"| {row.model} | {row.train_texts:,} | {m['accuracy']:.3f} | {m['macro_f1']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {by_class} | {m['log_loss']:.3f} | {m['ece']:.3f} | {row.cpu_seconds:.0f} |"
        )
    return "\n".join(lines)


def _compared(model: str, parts: Split, probabilities: Array, started: float) -> Compared:
    metrics = text_metrics(probabilities, parts.test.labels)
    interval = f1_interval(probabilities, parts.test.labels)
    return Compared(model, len(parts.train), metrics, interval, time.process_time() - started)


def baseline(parts: Split) -> Array:
    """Probabilities of the test part by the baseline that has the best macro-F1 on the validation part."""
    models = [_tfidf(parts.train, strength, weight) for strength in _STRENGTHS for weight in _WEIGHTS]
    found = [text_metrics(m.predict_proba(parts.validation.texts), parts.validation.labels) for m in models]
    best = models[int(np.argmax([metrics["macro_f1"] for metrics in found]))]
    out: Array = best.predict_proba(parts.test.texts)
    return out


def _tfidf(texts: LabelledTexts, strength: float, weight: str | None) -> Pipeline:
    """Words and pairs of words that two texts have, by logarithmic count."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=strength, class_weight=weight, max_iter=500))
    return model.fit(texts.texts, texts.labels)
