"""Evaluation: the folder of a measurement: scores of every candidate, and what they are worth.

::

    settings.json                                 what it was made with; scores made with others are removed
    <snapshot>.safetensors                        users, instants and outcomes of the test examples
    <snapshot>-<candidate>-<seed>.safetensors     scores of one trial
    metrics.json                                  :class:`Evaluation`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from model_export.data.labels import head_names
from model_export.metrics.bootstrap import Interval, Measured, TestSet, measure
from model_export.metrics.measures import Kind
from model_export.settings import Settings
from stream.errors import ConfigError

__all__ = [
    "METRICS_FILE", "Bounds", "Evaluation", "Outcomes", "Scores", "load_evaluation", "load_outcomes", "load_scores",
    "measured", "save_arrays",
]  # fmt: skip

Array = npt.NDArray[Any]
METRICS_FILE: Final = "metrics.json"
#: Low end of the 95 % interval, value, high end; null where a metric is not defined.
Bounds = tuple[float | None, float | None, float | None]
Table = dict[str, dict[str, Bounds]]
_DIGITS: Final = 5
_REFERENCE: Final = "fused"


@dataclass(frozen=True, slots=True)
class Scores:
    """Of ``n`` test examples: probabilities ``(n, heads)`` and value ``(n,)``, after and before calibration."""

    p: Array
    value: Array
    p_raw: Array
    value_raw: Array


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The ``n`` test examples of one snapshot: what came true, and what describes their users.

    ``labels`` is ``(n, heads)``, ``value`` ``(n,)`` in currency units, ``features`` as in the contract; ``group``
    is an index into :attr:`Evaluation.groups`.
    """

    user: Array
    as_of: Array
    labels: Array
    value: Array
    features: Array
    group: Array


class Evaluation(msgspec.Struct, frozen=True):
    """What was measured: means over snapshots and seeds with 95 % intervals, ``task → model → metric``."""

    settings: Settings
    currency: str
    #: Test instants, newest first, as ISO dates, and how many users were scored at each.
    snapshots: list[tuple[str, int]]
    base_rates: dict[str, float]
    tasks: dict[str, Table]
    #: ``task → model → metric`` of the fused model less the model, on the same resamples.
    differences: dict[str, Table]
    #: As ``tasks``, before calibration.
    uncalibrated: dict[str, Table]
    #: Groups of users that the data names, "" for those of none.
    groups: list[str]
    left_out: dict[str, int]


def load_evaluation(folder: Path) -> Evaluation:
    """What was measured; raises ConfigError where nothing was."""
    try:
        return msgspec.json.decode((folder / METRICS_FILE).read_bytes(), type=Evaluation)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{folder / METRICS_FILE} cannot be read ({error}); run `valuestream-model evaluate` first"
        ) from None


def load_outcomes(folder: Path) -> list[Outcomes]:
    """The test examples of every snapshot, newest first."""
    out: list[Outcomes] = []
    while (path := folder / f"{len(out)}.safetensors").is_file():
        out.append(Outcomes(**load_file(path)))
    return out


def load_scores(folder: Path, model: str) -> list[list[Scores]]:
    """Scores of one candidate: for every snapshot, newest first, for every seed."""
    n = len(load_outcomes(folder))
    paths = [sorted(folder.glob(f"{k}-{model}-*.safetensors")) for k in range(n)]
    return [[Scores(**load_file(path)) for path in of_snapshot] for of_snapshot in paths]


def save_arrays(path: Path, record: Scores | Outcomes) -> None:
    """Write a record whole or not at all."""
    new = path.with_suffix(".new")
    save_file({name: np.ascontiguousarray(array) for name, array in asdict(record).items()}, new)
    new.replace(path)


def measured(
    settings: Settings, folder: Path, models: Sequence[str], groups: list[str], left_out: dict[str, int]
) -> Evaluation:
    """Measure what the folder holds of ``models``."""
    outcomes = load_outcomes(folder)
    scores = {model: load_scores(folder, model) for model in models}
    heads = head_names(settings.labels)
    after, before = {}, {}
    for h, head in enumerate(heads):
        actual = [o.labels[:, h] for o in outcomes]
        after[head] = _measure(settings, outcomes, actual, scores, partial(_head, h), "probability")
        before[head] = _measure(settings, outcomes, actual, scores, partial(_raw_head, h), "probability")
    value = [o.value for o in outcomes]
    if any(v.any() for v in value):
        after["ltv"] = _measure(settings, outcomes, value, scores, lambda s: s.value, "value")
        before["ltv"] = _measure(settings, outcomes, value, scores, lambda s: s.value_raw, "value")
    return Evaluation(
        settings=settings,
        currency=settings.data.money,
        snapshots=[(_day(o), len(o.user)) for o in outcomes],
        base_rates={head: float(np.mean([o.labels[:, h].mean() for o in outcomes])) for h, head in enumerate(heads)},
        tasks={task: _table(m.metrics) for task, m in after.items()},
        differences={task: _differences(m) for task, m in after.items()},
        uncalibrated={task: _table(m.metrics) for task, m in before.items()},
        groups=groups,
        left_out=left_out,
    )


def _head(h: int, scores: Scores) -> Array:
    return scores.p[:, h]


def _raw_head(h: int, scores: Scores) -> Array:
    return scores.p_raw[:, h]


def _measure(
    settings: Settings,
    outcomes: Sequence[Outcomes],
    actual: Sequence[Array],
    scores: dict[str, list[list[Scores]]],
    column: Callable[[Scores], Array],
    kind: Kind,
) -> Measured:
    snapshots = [
        TestSet(o.user, y, {model: [column(s) for s in of[k]] for model, of in scores.items()})
        for k, (o, y) in enumerate(zip(outcomes, actual, strict=True))
    ]
    return measure(snapshots, kind, settings.evaluate.resamples, settings.seed)


def _differences(measure: Measured) -> Table:
    metrics = measure.metrics
    return _table(
        {
            model: {metric: measure.difference(_REFERENCE, model, metric) for metric in of}
            for model, of in metrics.items()
            if model != _REFERENCE
        }
    )


def _table(metrics: dict[str, dict[str, Interval]]) -> Table:
    return {model: {metric: _bounds(i) for metric, i in of.items()} for model, of in metrics.items()}


def _bounds(interval: Interval) -> Bounds:
    low, value, high = (
        round(x, _DIGITS) if np.isfinite(x) else None for x in (interval.low, interval.value, interval.high)
    )
    return low, value, high


def _day(outcomes: Outcomes) -> str:
    return datetime.fromtimestamp(int(outcomes.as_of.max()), UTC).strftime("%Y-%m-%d")
