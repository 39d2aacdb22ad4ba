"""Evaluation folder: what an evaluation leaves behind, and how to read it. ``evaluate.py`` runs the evaluation.

::

    settings.json                                 the settings; scores that were made with others are removed
    <snapshot>.safetensors                        users, instants and labels of the examples of a test set
    <snapshot>-<candidate>-<seed>.safetensors     scores of one candidate on that test set
    metrics.json                                  :class:`Evaluation`
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from model_export.metrics.bootstrap import Interval
from model_export.settings import Settings
from stream.arrays import FeatureRows, Floats, Probabilities, Rows, Seconds
from stream.errors import ConfigError

__all__ = [
    "METRICS_FILE", "Estimate", "Evaluation", "MetricsTable", "ScoredExamples", "Scores", "load_evaluation",
    "load_scored_examples", "load_scores", "rounded", "save_arrays",
]  # fmt: skip

METRICS_FILE: Final = "metrics.json"
#: Low end of the 95 % interval, value, high end; null where a metric is not defined.
Estimate: TypeAlias = tuple[float | None, float | None, float | None]
#: model → metric → estimate
MetricsTable: TypeAlias = dict[str, dict[str, Estimate]]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of ``n`` test examples: probabilities ``(n, heads)`` and value ``(n,)``, after and before calibration."""

    p: Probabilities
    value: Floats
    p_raw: Probabilities
    value_raw: Floats


@dataclass(frozen=True, slots=True)
class ScoredExamples:
    """The ``n`` examples of one test set: what came true, and what describes their users.

    ``labels`` is ``(n, heads)``, ``value`` is ``(n,)`` in currency units, ``features`` are those of the contract.
    ``group`` is an index into :attr:`Evaluation.groups`.
    """

    user: Rows
    as_of: Seconds
    labels: npt.NDArray[np.float32]
    value: Floats
    features: FeatureRows
    group: npt.NDArray[np.int32]


class Evaluation(msgspec.Struct, frozen=True):
    """Metrics of every candidate: means over test sets and seeds with 95 % intervals, ``task → model → metric``."""

    settings: Settings
    currency: str
    #: Test instants, newest first, as ISO dates, and how many users were scored at each.
    snapshots: list[tuple[str, int]]
    base_rates: dict[str, float]
    tasks: dict[str, MetricsTable]
    #: ``task → model → metric``: the fused model less the model, on the same resamples.
    differences: dict[str, MetricsTable]
    #: The same as ``tasks``, before calibration.
    uncalibrated: dict[str, MetricsTable]
    #: Names of the groups of users that the data gives; "" is for users without a group.
    groups: list[str]
    #: Examples that were left out, by reason.
    left_out: dict[str, int]


def load_evaluation(folder: Path) -> Evaluation:
    """Read the metrics. Raises ConfigError if nothing was measured yet."""
    try:
        return msgspec.json.decode((folder / METRICS_FILE).read_bytes(), type=Evaluation)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{folder / METRICS_FILE} cannot be read ({error}); run `valuestream-model evaluate` first"
        ) from None


def load_scored_examples(folder: Path) -> list[ScoredExamples]:
    """Read the examples of every test set, newest first."""
    examples: list[ScoredExamples] = []
    while (path := folder / f"{len(examples)}.safetensors").is_file():
        examples.append(ScoredExamples(**load_file(path)))
    return examples


def load_scores(folder: Path, model: str) -> list[list[Scores]]:
    """Read the scores of one candidate: a list for each test set, newest first, with an entry for each seed."""
    n = len(load_scored_examples(folder))
    paths = [sorted(folder.glob(f"{k}-{model}-*.safetensors")) for k in range(n)]
    return [[Scores(**load_file(path)) for path in of_test_set] for of_test_set in paths]


def save_arrays(path: Path, record: Scores | ScoredExamples) -> None:
    """Write a record; the file is there whole or not at all."""
    new = path.with_suffix(".new")
    save_file({name: np.ascontiguousarray(array) for name, array in asdict(record).items()}, new)
    new.replace(path)


def rounded(interval: Interval, digits: int) -> Estimate:
    """The interval with so many digits, and null for numbers that are not defined.

    >>> rounded(Interval(0.123456, 0.2, float("nan")), digits=4)
    (0.1235, 0.2, None)
    """
    ends = (interval.low, interval.value, interval.high)
    low, value, high = (round(x, digits) if np.isfinite(x) else None for x in ends)
    return low, value, high
