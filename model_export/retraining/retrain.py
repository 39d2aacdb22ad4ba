"""Retrain: the champion trained on with the newest labels, and promoted only where that is measurably better.

The challenger is made as any model is (see :mod:`model_export.training.train`), but from the champion's weights: the
network that is validated goes on from the champion's validated one, the network that serves from the one that serves.
So neither has seen the labels that it is next calibrated or measured on (docs/decisions/0009).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress

from model_export.data.dataset import Dataset
from model_export.data.labels import head_names
from model_export.data.prepare import check_enough, prepare
from model_export.data.splits import Splits
from model_export.export.export import VARIANTS
from model_export.network.event_bert import EventBert
from model_export.retraining.challenge import Comparison, compare, decide
from model_export.retraining.registry import Champion, Registry
from model_export.settings import Settings
from model_export.training.model import Model, products_of, train_model
from model_export.training.task import frequent_categories
from model_export.training.train import category_names, run_of, sample_of
from stream.contract.manifest import Variant
from stream.errors import ConfigError
from stream.iso_time import iso_seconds

__all__ = ["Retraining", "retrain"]

Array = npt.NDArray[Any]
#: Keys of ``model`` that weights need not fit: the category head follows its names, dropout is for training only.
_FREE: Final = ("categories", "dropout")


class Retraining(msgspec.Struct, frozen=True):
    """What a retraining came to, as the registry's history keeps it."""

    promoted: bool
    why: str
    #: The champion from now on, and the one that the challenger met; none: there was none.
    champion: str | None
    met: str | None
    #: Whether the challenger went on from the champion's weights, and for how many epochs.
    warm: bool
    epochs: int
    margin: float
    #: First and last event time of the data, ISO 8601; labels from ``test_from`` on were seen by neither model.
    data: tuple[str, str]
    test_from: str
    comparison: Comparison | None


def retrain(
    settings: Settings,
    folder: Path,
    console: Console,
    *,
    variants: tuple[Variant, ...] = VARIANTS,
    sign_key: Path | None = None,
) -> Retraining:
    """Make a challenger from the newest closed label windows; promote it where it beats the champion of ``folder``.

    The first model has nobody to beat; with a ``sign_key``, a PEM file, what is promoted is signed. Raises ConfigError
    where the two cannot be compared: other labels or another currency, or a champion that has seen what it would be
    tested on.
    """
    registry = Registry(folder)
    with registry.locked():
        champion = registry.champion()
        if champion is not None:
            _check_comparable(champion, settings)
        examples = prepare(settings, registry.examples, console)
        check_enough(examples, head_names(settings.labels), settings.fit.class_min)
        number = registry.next_number()
        result = _untried(settings, champion, examples)
        if champion is None or _has_news(champion, settings, examples):
            model, warm = _challenger(settings, champion, examples, console)
            run = run_of(settings, examples, model)
            comparison = None if champion is None else compare(champion, run, model.network, examples.test)
            promoted, why = decide(comparison, settings.retrain.margin)
            result = msgspec.structs.replace(
                result, promoted=promoted, why=why, warm=warm, epochs=model.best_epoch, comparison=comparison
            )
            if promoted:
                sample = sample_of(examples.test, settings.seed)
                version = registry.add(number, run, (model.network, model.validated), sample, variants, sign_key)
                registry.promote(version)
                result = msgspec.structs.replace(result, champion=version)
        registry.record(number, result)
        registry.prune()
    return result


def _untried(settings: Settings, champion: Champion | None, examples: Dataset) -> Retraining:
    """What a retraining comes to where no challenger is made."""
    version = None if champion is None else champion.version
    return Retraining(
        promoted=False,
        why="the data holds no labels newer than those that the champion has seen",
        champion=version,
        met=version,
        warm=False,
        epochs=0,
        margin=settings.retrain.margin,
        data=(iso_seconds(examples.span[0]), iso_seconds(examples.span[1])),
        test_from=iso_seconds(_windows(settings, examples.span).test[0]),
        comparison=None,
    )


# The challenger --------------------------------------------------------------------------------------


def _challenger(
    settings: Settings, champion: Champion | None, examples: Dataset, console: Console
) -> tuple[Model, bool]:
    """The new model, and whether it went on from the champion's weights."""
    differs = "there is no champion yet" if champion is None else _difference(champion.run.settings, settings)
    with Progress(console=console, transient=True) as progress:
        if champion is None or differs:
            console.print(f"training a fresh model: {differs}")
            return train_model(settings, examples, settings.seed, progress, products=products_of(settings)), False
        console.print(f"going on from the champion {champion.version}")
        return _gone_on(settings, champion, examples, progress), True


def _gone_on(settings: Settings, champion: Champion, examples: Dataset, progress: Progress) -> Model:
    """A model learned from the champion's two networks on, which keep their table of products, without a teacher."""
    settings = msgspec.structs.replace(
        settings, teacher=None, fit=msgspec.structs.replace(settings.fit, epochs=settings.retrain.epochs)
    )
    names = category_names(examples, frequent_categories(examples.train, settings.model.categories))
    warm = (
        _with_classes(champion.validated, champion.run.categories, names),
        _with_classes(champion.network, champion.run.categories, names),
    )
    return train_model(settings, examples, settings.seed, progress, warm=warm)


@torch.no_grad()
def _with_classes(network: EventBert, names: tuple[str, ...], wanted: tuple[str, ...]) -> EventBert:
    """The network with a row of the category head for each of ``wanted``: its own, or 0 for a new class."""
    weights = network.state_dict()
    rows = {name: k for k, name in enumerate(names)}
    for key in [key for key in weights if key.startswith("category.")]:
        old = weights.pop(key)
        if wanted:
            weights[key] = torch.stack([old[rows[n]] if n in rows else torch.zeros_like(old[0]) for n in wanted])
    out = EventBert(network.config, msgspec.structs.replace(network.shape, categories=len(wanted)))
    # Where the champion had no such head, the new one keeps its random start.
    out.load_state_dict(weights, strict=bool(names) or not wanted)
    return out


# May they be compared? -------------------------------------------------------------------------------


def _check_comparable(champion: Champion, settings: Settings) -> None:
    run = champion.run
    for name, theirs, ours in (
        ("labels", run.settings.labels, settings.labels),
        ("currency", run.currency, settings.data.money),
    ):
        if theirs != ours:
            raise ConfigError(
                f"{name} of the champion {champion.version} are {theirs}, the settings say {ours}: their scores mean"
                " different things and cannot be compared; set them back, or begin another folder with --models"
            )


def _has_news(champion: Champion, settings: Settings, examples: Dataset) -> bool:
    """Whether there are labels that the champion has not seen, or another network is to be tried on those there are.

    What a model has seen ends where its own test window began, see :class:`Splits`. ConfigError where that is later
    than the present test window begins.
    """
    first, last = (int(datetime.fromisoformat(when).timestamp()) for when in champion.run.trained_on)
    seen = _windows(champion.run.settings, (first, last)).test[0]
    begin = _windows(settings, examples.span).test[0]
    if seen > begin:
        raise ConfigError(
            f"the champion {champion.version} has seen labels up to {iso_seconds(seen)}, but the test window begins on"
            f" {iso_seconds(begin)}: it would be tested on what it was trained on; give data that ends later, or a"
            " shorter snapshots.window_days"
        )
    return seen < begin or bool(_difference(champion.run.settings, settings))


def _difference(theirs: Settings, ours: Settings) -> str:
    """What keeps the champion's weights from being gone on from; empty: nothing."""
    old, new = (
        {"model": msgspec.to_builtins(s.model), "text": msgspec.to_builtins(s.portable.text)} for s in (theirs, ours)
    )
    return ", ".join(
        f"{table}.{key} is {old[table][key]!r} in the champion and {value!r} in the settings"
        for table, values in new.items()
        for key, value in values.items()
        if old[table][key] != value and not (table == "model" and key in _FREE)
    )


def _windows(settings: Settings, span: tuple[int, int]) -> Splits:
    return Splits.laid_out(span, settings.labels, settings.snapshots)
