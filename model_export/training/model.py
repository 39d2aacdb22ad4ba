"""Model: trains a network on labelled examples, calibrates it, and trains it again on the newest labels.

A network is trained on the training split, and stopped early and calibrated on the validation split. Then it is trained
again, for as many epochs, on the recent split: see :mod:`model_export.data.splits`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from rich.progress import Progress

from model_export.data.dataset import Dataset
from model_export.data.event_log import SIMULATOR
from model_export.data.examples import Examples, Outcomes
from model_export.network.event_bert import EventBert
from model_export.run_folder import predict
from model_export.settings import Settings
from model_export.text.encoder import TextBert
from model_export.text.products import ProductTable, catalogue_of_events, product_table, read_catalogue
from model_export.training.calibration import calibrate, predicted_probabilities, recalibrate
from model_export.training.calibration_curves import fit_temperature
from model_export.training.fit import fit, refit
from model_export.training.task import Task, frequent_categories
from stream.arrays import Slots
from stream.contract.manifest import Calibration
from stream.datasets.formats import read_events
from stream.errors import ConfigError

__all__ = ["Model", "products_of", "train_model"]


@dataclass(frozen=True, slots=True)
class Model:
    """A network trained on the newest labels, its calibration, and for how many epochs it was trained.

    ``validated`` is the network that was trained on the training split: the calibration was fitted with it. In both
    counts of epochs, 0 is the linear start. ``categories`` are the hash buckets of the next-category classes.
    """

    network: EventBert
    validated: EventBert
    calibration: Calibration
    categories: Slots
    epochs: int
    best_epoch: int


def products_of(settings: Settings) -> ProductTable | None:
    """Embed the product texts that the settings name; None if they name none."""
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


def train_model(
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
    """Fit, calibrate and refit.

    The folder ``work`` keeps the state after each epoch, so that an interrupted training goes on. A head that ranks
    worse than chance raises ConfigError or, without ``strict``, gets its base rate. Training starts from the
    weights of ``warm``: the first network for the one to validate, the second for the one to serve.
    """
    warm_validated, warm_serving = warm or (None, None)
    task = Task(
        settings.model,
        settings.fit,
        seed,
        frequent_categories(examples.train, settings.model.categories),
        progress,
        products,
        warm=warm_validated,
        checkpoint=None if work is None else work / f"fit-{seed}.pt",
    )
    soft_targets = _teacher(settings, examples, replace(task, warm=None))
    fitted = fit(task, examples.train, examples.validation, soft_targets(examples.train))
    calibration = _calibrated(settings, fitted.network, examples.validation, task.categories, strict=strict)
    refit_task = replace(task, warm=warm_serving, checkpoint=None if work is None else work / f"refit-{seed}.pt")
    network = refit(refit_task, examples.recent, fitted.best_epoch, soft_targets(examples.recent))
    calibration = recalibrate(
        calibration,
        predict(network, examples.validation.tokens, examples.validation.features),
        examples.validation,
        labels=settings.labels,
        sufficient_events=settings.export.sufficient_events,
        drift=settings.fit.drift,
    )
    return Model(network, fitted.network, calibration, task.categories, fitted.epochs, fitted.best_epoch)


def _teacher(settings: Settings, examples: Dataset, task: Task) -> Callable[[Examples], Outcomes | None]:
    """Train the teacher, a larger network, and return what gives its calibrated probabilities for examples.

    Without a teacher in the settings, that gives None.
    """
    if settings.teacher is None:
        return lambda _: None
    task.progress.console.print("training the teacher")
    checkpoint = task.checkpoint and task.checkpoint.with_name(f"teacher-{task.checkpoint.name}")
    larger = replace(task, model=settings.teacher, checkpoint=checkpoint)
    teacher = fit(larger, examples.train, examples.validation).network
    calibration = _calibrated(settings, teacher, examples.validation, task.categories, strict=False)
    task.progress.console.print("training its student")
    return lambda part: predicted_probabilities(
        predict(teacher, part.tokens, part.features), part, calibration, settings.export.sufficient_events
    ).astype(np.float32)


def _calibrated(
    settings: Settings, network: EventBert, held_out: Examples, categories: Slots, *, strict: bool = True
) -> Calibration:
    """Calibrate the network on ``held_out``, the next-category head included; see :func:`calibrate`."""
    raw = predict(network, held_out.tokens, held_out.features)
    calibration = calibrate(raw, held_out, settings.labels, settings.export.sufficient_events, strict=strict)
    known = np.isin(held_out.category, categories)
    if not known.any():
        return calibration
    class_of = {bucket: k for k, bucket in enumerate(categories.tolist())}
    classes = np.array([class_of[bucket] for bucket in held_out.category[known].tolist()])
    return msgspec.structs.replace(calibration, category_temperature=fit_temperature(raw.category[known], classes))
