"""Train: turns a data set into a run folder: a calibrated model, and how good it is on the test split."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from model_export.baselines.baseline import Baseline, score_baseline
from model_export.baselines.linear import Logistic, Recency
from model_export.data.dataset import Dataset
from model_export.data.examples import Examples
from model_export.data.labels import head_names
from model_export.data.prepare import check_enough, examples_key, prepare
from model_export.data.splits import SPLITS
from model_export.metrics.measures import METRICS
from model_export.metrics.ranking import rank_predictions
from model_export.run_folder import Run, Sample, predict, save_run
from model_export.settings import Settings
from model_export.training.calibration import predicted_probabilities, predicted_value
from model_export.training.model import Model, products_of, train_model
from stream.arrays import Floats, Probabilities, Slots
from stream.contract.tokens import CHANNELS
from stream.iso_time import iso_seconds

__all__ = ["category_names", "run_of", "sample_of", "train", "work_folder"]

#: Most rows of the test split that the run folder keeps.
_SAMPLE_ROWS: Final = 2_000
_TYPE: Final = CHANNELS.index("type")


def train(settings: Settings, folder: Path, console: Console) -> Run:
    """Prepare, train, measure on the test split and write the run folder. An interrupted training goes on."""
    work = work_folder(folder)
    examples = prepare(settings, work / "dataset", console)
    heads = head_names(settings.labels)
    checkpoints = work / "checkpoints" / examples_key(settings, msgspec.json.encode(settings))[:16]
    check_enough(examples, heads, settings.fit.class_min)
    sizes = [len(part) for part in (examples.train, examples.validation, examples.test)]
    console.print("training on {:,} examples, {:,} for validation, {:,} for the test".format(*sizes))
    with Progress(console=console, transient=True) as progress:
        model = train_model(
            settings, examples, settings.seed, progress, products=products_of(settings), work=checkpoints
        )
    if not model.best_epoch:
        console.print("the linear start was best: the network adds nothing here; logistic regression would do")
    run = run_of(settings, examples, model)
    save_run(folder, run, model.network, sample_of(examples.test, settings.seed))
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return run


def run_of(settings: Settings, examples: Dataset, model: Model) -> Run:
    """What the run folder says of a training, including how good the model is on the test split."""
    return Run(
        settings=settings.portable,
        shape=model.network.shape,
        calibration=model.calibration,
        categories=category_names(examples, model.categories),
        currency=settings.data.money,
        trained_on=(iso_seconds(examples.span[0]), iso_seconds(examples.span[1])),
        counts=_counts(examples, model),
        metrics=_measure(model, examples, settings),
    )


def category_names(examples: Dataset, buckets: Slots) -> tuple[str, ...]:
    """Names of the categories of these hash buckets. A bucket without a known name is named by its number."""
    return tuple(examples.categories.get(bucket, str(bucket)) for bucket in buckets.tolist())


def work_folder(folder: Path) -> Path:
    """Folder of the examples and checkpoints of a run. It lies beside the run folder, which is replaced as a whole."""
    return folder.with_name(f"{folder.name}.work")


def _measure(model: Model, examples: Dataset, settings: Settings) -> dict[str, dict[str, float]]:
    """Metrics of the model and of baselines, at the snapshots of the test split and at its events."""
    test, enough = examples.test, settings.export.sufficient_events
    raw = predict(model.network, test.tokens, test.features)
    p = predicted_probabilities(raw, test, model.calibration, enough)
    value = predicted_value(raw, test, model.calibration, labels=settings.labels, sufficient_events=enough)
    out = {}
    for suffix, at_event in (("", False), ("_at_events", True)):
        rows = np.flatnonzero(test.at_event == at_event)
        if len(rows):
            kind = examples.of_kind(at_event)
            out[f"event_bert{suffix}"] = _metrics(p[rows], value[rows], kind.test, settings)
            baselines: dict[str, Baseline] = {"logistic": Logistic()}
            if not at_event:  # at events, recency is 0 for everyone
                baselines["recency"] = Recency()
            for name, baseline in baselines.items():
                scores = score_baseline(baseline, kind, settings)
                out[f"{name}{suffix}"] = _metrics(scores.p, scores.value, kind.test, settings)
    return out


def _metrics(p: Probabilities, value: Floats, test: Examples, settings: Settings) -> dict[str, float]:
    """Metrics of probabilities ``(n, heads)`` and values ``(n,)`` of test examples, named ``head.metric``."""
    out = {}
    for head, predictions, y in zip(head_names(settings.labels), p.T, test.outcomes.T, strict=True):
        out[f"{head}.base_rate"] = float(y.mean())
        out.update(
            {f"{head}.{m}": metric(rank_predictions(predictions, y)) for m, metric in METRICS["probability"].items()}
        )
    if test.value.any():
        out.update(
            {f"value.{m}": metric(rank_predictions(value, test.value)) for m, metric in METRICS["value"].items()}
        )
    return {name: round(number, 5) for name, number in out.items()}


def _counts(examples: Dataset, model: Model) -> dict[str, int]:
    """How many examples each split has, what was left out, and how many epochs were run."""
    out = {split: len(getattr(examples, split)) for split in SPLITS}
    out.update({f"left out: {reason}": n for reason, n in sorted(examples.left_out.items())})
    out.update({f"dropped events: {reason}": n for reason, n in sorted(examples.dropped.items())})
    return {**out, "users": len(examples.names), "epochs": model.epochs, "best epoch": model.best_epoch}


def sample_of(test: Examples, seed: int) -> Sample:
    """Some rows of the test split, in the order of history length."""
    rows = np.random.default_rng(seed).permutation(len(test))[:_SAMPLE_ROWS]
    lengths = (test.tokens[rows, :, _TYPE] > 0).sum(axis=1)
    part = test.take(rows[np.argsort(lengths, kind="stable")])
    return Sample(part.tokens, part.features, part.churn, part.purchase, part.value)
