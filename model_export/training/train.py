"""Train: labelled examples → a calibrated model, and a data set → a run folder.

A model is trained on the training window and stopped early and calibrated on the validation window. Then it is
trained anew, for as many epochs, on the recent window: see :mod:`model_export.data.examples`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from model_export.baselines import Baseline
from model_export.baselines.linear import Logistic, Recency
from model_export.baselines.scored import score_baseline
from model_export.data.dataset import Dataset
from model_export.data.event_log import SIMULATOR
from model_export.data.examples import Examples
from model_export.data.labels import head_names
from model_export.data.prepare import check_enough, examples_key, prepare
from model_export.data.splits import SPLITS
from model_export.metrics.measures import METRICS
from model_export.metrics.ordered import ordered
from model_export.network.event_bert import EventBert
from model_export.run_folder import Run, Sample, predict, save_run
from model_export.settings import Settings
from model_export.text.encoder import TextBert
from model_export.text.products import ProductTable, catalogue_of_events, product_table, read_catalogue
from model_export.training.calibration import calibrate, follow, predicted, predicted_value
from model_export.training.calibration_curves import fit_temperature
from model_export.training.fit import Task, fit, frequent_categories, refit
from stream.contract.manifest import Calibration
from stream.contract.tokens import CHANNELS
from stream.datasets.formats import read_events
from stream.errors import ConfigError

__all__ = [
    "Model", "category_names", "iso", "learn", "products_of", "run_of", "sample_of", "train", "work_folder",
]  # fmt: skip

Array = npt.NDArray[Any]
_SAMPLE_ROWS: Final = 2_000
_TYPE: Final = CHANNELS.index("type")


@dataclass(frozen=True, slots=True)
class Model:
    """A network on the newest labels, the calibration for it, and how long it was trained (0: the linear start).

    ``validated`` is the network that the calibration was found with, one horizon older.
    """

    network: EventBert
    validated: EventBert
    calibration: Calibration
    categories: Array
    epochs: int
    best_epoch: int


def products_of(settings: Settings) -> ProductTable | None:
    """The table of product texts that the settings ask for, embedded anew."""
    text, data = settings.text, settings.data
    if not text.checkpoint:
        return None
    if text.catalogue:
        catalogue = read_catalogue(Path(text.catalogue))
    elif data.source == SIMULATOR:
        raise ConfigError("simulated products have no names; set text.catalogue, or leave text.checkpoint empty")
    else:
        catalogue = catalogue_of_events(read_events(Path(data.source), data.format))
    return product_table(catalogue, TextBert.load(text.checkpoint), settings.model.product_width)


def learn(
    settings: Settings,
    examples: Dataset,
    seed: int,
    progress: Progress,
    *,
    products: ProductTable | None = None,
    work: Path | None = None,
    strict: bool = True,
    warm: tuple[EventBert, EventBert] | None = None,
) -> Model:
    """Fit, calibrate and refit; epochs are kept in ``work``, where given, so that an interrupted training goes on.

    A head that ranks worse than chance raises ConfigError, or, if not ``strict``, says its base rate. ``warm`` are the
    networks to go on from, to be validated and to serve; else both begin anew.
    """
    older, newer = warm or (None, None)
    task = Task(
        settings.model,
        settings.fit,
        seed,
        frequent_categories(examples.train, settings.model.categories),
        progress,
        products,
        warm=older,
        checkpoint=None if work is None else work / f"fit-{seed}.pt",
    )
    teach = _teacher(settings, examples, replace(task, warm=None))
    fitted = fit(task, examples.train, examples.validation, teach(examples.train))
    calibration = _calibrated(settings, fitted.network, examples.validation, task.categories, strict=strict)
    again = replace(task, warm=newer, checkpoint=None if work is None else work / f"refit-{seed}.pt")
    network = refit(again, examples.recent, fitted.best_epoch, teach(examples.recent))
    calibration = follow(
        calibration,
        predict(network, examples.validation.tokens, examples.validation.features),
        examples.validation,
        settings.labels,
        settings.export.sufficient_events,
        settings.fit.drift,
    )
    return Model(network, fitted.network, calibration, task.categories, fitted.epochs, fitted.best_epoch)


def train(settings: Settings, folder: Path, console: Console) -> Run:
    """Prepare, learn, measure on the test window and write the run folder; goes on where it was interrupted."""
    work = work_folder(folder)
    examples = prepare(settings, work / "dataset", console)
    heads = head_names(settings.labels)
    checkpoints = work / "checkpoints" / examples_key(settings, msgspec.json.encode(settings))[:16]
    check_enough(examples, heads, settings.fit.class_min)
    sizes = [len(part) for part in (examples.train, examples.validation, examples.test)]
    console.print("training on {:,} examples, {:,} for validation, {:,} for the test".format(*sizes))
    with Progress(console=console, transient=True) as progress:
        model = learn(settings, examples, settings.seed, progress, products=products_of(settings), work=checkpoints)
    if not model.best_epoch:
        console.print("the linear start was best: the network adds nothing here; logistic regression would do")
    run = run_of(settings, examples, model)
    save_run(folder, run, model.network, sample_of(examples.test, settings.seed))
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return run


def run_of(settings: Settings, examples: Dataset, model: Model) -> Run:
    """What there is to say of a training, its worth on the test window included."""
    return Run(
        settings=settings.portable,
        shape=model.network.shape,
        calibration=model.calibration,
        categories=category_names(examples, model.categories),
        currency=settings.data.money,
        trained_on=(iso(examples.span[0]), iso(examples.span[1])),
        counts=_counts(examples, model),
        metrics=_measure(model, examples, settings),
    )


def category_names(examples: Dataset, buckets: Array) -> tuple[str, ...]:
    """Names of categories by hash bucket; the bucket itself where the name was not kept."""
    return tuple(examples.categories.get(bucket, str(bucket)) for bucket in buckets.tolist())


def work_folder(folder: Path) -> Path:
    """Where a run keeps its examples and checkpoints: beside it, as a finished run replaces its folder whole."""
    return folder.with_name(f"{folder.name}.work")


def _teacher(settings: Settings, examples: Dataset, task: Task) -> Callable[[Examples], npt.NDArray[np.float32] | None]:
    """Calibrated probabilities of a larger network, where the settings ask for one."""
    if settings.teacher is None:
        return lambda _: None
    task.progress.console.print("training the teacher")
    checkpoint = task.checkpoint and task.checkpoint.with_name(f"teacher-{task.checkpoint.name}")
    larger = replace(task, model=settings.teacher, checkpoint=checkpoint)
    teacher = fit(larger, examples.train, examples.validation).network
    calibration = _calibrated(settings, teacher, examples.validation, task.categories, strict=False)
    task.progress.console.print("training its student")
    return lambda part: predicted(
        predict(teacher, part.tokens, part.features), part, calibration, settings.export.sufficient_events
    ).astype(np.float32)


def _calibrated(
    settings: Settings, network: EventBert, held_out: Examples, categories: Array, *, strict: bool = True
) -> Calibration:
    """The calibration found on ``held_out``, that of the next category included; see :func:`calibrate`."""
    raw = predict(network, held_out.tokens, held_out.features)
    calibration = calibrate(raw, held_out, settings.labels, settings.export.sufficient_events, strict=strict)
    known = np.isin(held_out.category, categories)
    if not known.any():
        return calibration
    class_of = {bucket: k for k, bucket in enumerate(categories.tolist())}
    true = np.array([class_of[bucket] for bucket in held_out.category[known].tolist()])
    return msgspec.structs.replace(calibration, category_temperature=fit_temperature(raw.category[known], true))


def _measure(model: Model, examples: Dataset, settings: Settings) -> dict[str, dict[str, float]]:
    """Metrics on the snapshots of the test window, and on its states at events, beside baselines of that kind."""
    test, enough = examples.test, settings.export.sufficient_events
    raw = predict(model.network, test.tokens, test.features)
    p = predicted(raw, test, model.calibration, enough)
    value = predicted_value(raw, test, model.calibration, settings.labels, enough)
    out = {}
    for suffix, at_event in (("", False), ("_at_events", True)):
        rows = np.flatnonzero(test.at_event == at_event)
        if len(rows):
            kind = examples.of_kind(at_event)
            out[f"event_bert{suffix}"] = _metrics(p[rows], value[rows], kind.test, settings)
            rivals: dict[str, Baseline] = {"logistic": Logistic()}
            if not at_event:  # where recency is 0 for everyone
                rivals["recency"] = Recency()
            for name, baseline in rivals.items():
                scores = score_baseline(baseline, kind, settings)
                out[f"{name}{suffix}"] = _metrics(scores.p, scores.value, kind.test, settings)
    return out


def _metrics(p: Array, value: Array, test: Examples, settings: Settings) -> dict[str, float]:
    """Metrics ``head.metric`` of probabilities ``(n, heads)`` and values ``(n,)`` of test examples."""
    out = {}
    for head, predictions, y in zip(head_names(settings.labels), p.T, test.outcomes.T, strict=True):
        out[f"{head}.base_rate"] = float(y.mean())
        out.update({f"{head}.{m}": metric(ordered(predictions, y)) for m, metric in METRICS["probability"].items()})
    if test.value.any():
        out.update({f"value.{m}": metric(ordered(value, test.value)) for m, metric in METRICS["value"].items()})
    return {name: round(number, 5) for name, number in out.items()}


def _counts(examples: Dataset, model: Model) -> dict[str, int]:
    """Examples by window, what was left out, and the epochs run."""
    out = {window: len(getattr(examples, window)) for window in SPLITS}
    out.update({f"left out: {reason}": n for reason, n in sorted(examples.left_out.items())})
    out.update({f"dropped events: {reason}": n for reason, n in sorted(examples.dropped.items())})
    return {**out, "users": len(examples.names), "epochs": model.epochs, "best epoch": model.best_epoch}


def sample_of(test: Examples, seed: int) -> Sample:
    """Rows of the test window in order of history length."""
    rows = np.random.default_rng(seed).permutation(len(test))[:_SAMPLE_ROWS]
    lengths = (test.tokens[rows, :, _TYPE] > 0).sum(axis=1)
    part = test.take(rows[np.argsort(lengths, kind="stable")])
    return Sample(part.tokens, part.features, part.churn, part.purchase, part.value)


def iso(seconds: int) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
