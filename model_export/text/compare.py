"""Compare: measures each way of tuning a text BERT, and TF-IDF with logistic regression, on the same split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.progress import Progress
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from model_export.text.labelled import LabelledTexts, Split, latest
from model_export.text.sentiment import fit_sentiment, text_metrics
from model_export.text.settings import FITS, Mode
from stream.arrays import Probabilities, Slots
from stream.score.sentiment import LABELS

__all__ = ["Compared", "baseline", "compare_sentiment", "f1_interval", "markdown"]

#: Settings of the baseline: how weak the penalty is, and whether rare classes are weighed up. The validation part
#: chooses among them.
_STRENGTHS: Final = (1.0, 3.0, 10.0)
_WEIGHTS: Final = (None, "balanced")
_RESAMPLES: Final = 1_000
_CHEAP: Final[tuple[Mode, ...]] = ("frozen",)
_COSTLY: Final[tuple[Mode, ...]] = ("lora", "full")


@dataclass(frozen=True, slots=True)
class Compared:
    """One model on the test part: metrics, 95 % interval of macro-F1, and CPU seconds to train and measure it."""

    model: str
    train_texts: int
    metrics: dict[str, float]
    macro_f1: tuple[float, float]
    cpu_seconds: float


def compare_sentiment(parts: Split, checkpoint: str, train_max: int, progress: Progress) -> list[Compared]:
    """Measure the baseline and every mode on the whole test part.

    ``frozen`` learns from all training texts. ``full`` and ``lora`` cost far more per text, so they learn from the
    latest ``train_max`` of them, and validate on at most a quarter as many. The baseline learns from both.
    """
    fewer = Split(latest(parts.train, train_max), latest(parts.validation, train_max // 4), parts.test, parts.repeats)
    out = []
    for texts, modes in ((parts, _CHEAP), (fewer, _COSTLY)):
        started = time.process_time()
        out.append(_compared("TF-IDF + logistic regression", texts, baseline(texts), started))
        for mode in modes:
            started = time.process_time()
            fitted = fit_sentiment(texts, checkpoint, FITS[mode], progress)
            out.append(_compared(f"text BERT, {mode}", texts, fitted.probabilities, started))
    return out


def f1_interval(probabilities: Probabilities, labels: Slots, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of macro-F1 over resamples of the texts."""
    k = len(LABELS)
    cells = labels * k + probabilities.argmax(axis=1)
    share = np.bincount(cells, minlength=k * k) / len(cells)
    counts = np.random.default_rng(seed).multinomial(len(cells), share, size=_RESAMPLES).reshape(-1, k, k)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(counts.sum(axis=1) + counts.sum(axis=2), 1)
    low, high = np.quantile(f1.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def markdown(rows: Sequence[Compared]) -> str:
    """The comparison as a Markdown table."""
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


def _compared(model: str, parts: Split, probabilities: Probabilities, started: float) -> Compared:
    metrics = text_metrics(probabilities, parts.test.labels)
    interval = f1_interval(probabilities, parts.test.labels)
    return Compared(model, len(parts.train), metrics, interval, time.process_time() - started)


def baseline(parts: Split) -> Probabilities:
    """Probabilities on the test part, by the baseline with the best macro-F1 on the validation part."""
    models = [_tfidf(parts.train, strength, weight) for strength in _STRENGTHS for weight in _WEIGHTS]
    metrics = [text_metrics(m.predict_proba(parts.validation.texts), parts.validation.labels) for m in models]
    best = models[int(np.argmax([m["macro_f1"] for m in metrics]))]
    out: Probabilities = best.predict_proba(parts.test.texts)
    return out


def _tfidf(texts: LabelledTexts, strength: float, weight: str | None) -> Pipeline:
    """Logistic regression on words and pairs of words, weighed by TF-IDF; each must occur in two texts."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=strength, class_weight=weight, max_iter=500))
    return model.fit(texts.texts, texts.labels)
