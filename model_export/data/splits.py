"""Splits: cuts the time of a history into the spans that the examples of each split come from.

There are three splits one after the other: training, validation and test. Each starts only after all labels of the
split before have closed. The fourth split, *recent*, is the training split moved up to the test split, so that its
labels close just before the test starts. A network trained on the recent split is as far from the test split as a
network trained on the training split is from the validation split. So the calibration found on the validation split
fits it, including the drift over one horizon (docs/decisions/0008).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import msgspec

from stream.arrays import Mask, Seconds
from stream.contract.columns import DAY_S
from stream.contract.manifest import Labels
from stream.errors import ConfigError

__all__ = ["SPLITS", "SnapshotConfig", "Splits", "horizon_s"]

#: Names of the splits, as they stand in :class:`Splits` and in a data set.
SPLITS: Final = ("train", "validation", "recent", "test")


class SnapshotConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which examples are made. Days may be fractions."""

    #: Days between snapshots. Fewer days give more examples, which are more alike.
    every_days: float = 14.0
    #: Length of the validation split and of the test split.
    window_days: float = 14.0
    #: Length of the training split, counted back from its end; 0: all there is. Old examples show a market that has
    #: changed since.
    train_days: float = 0.0
    #: Odds that the first event of a user after a snapshot becomes an example; the odds of the j-th event are 1/j of
    #: them. 0: only snapshots become examples.
    at_event: float = 0.5
    #: Most examples of each split; a seeded draw thins out larger splits. One example takes about 1.1 KB.
    examples_max: int = 400_000


@dataclass(frozen=True, slots=True)
class Splits:
    """First and last instant of each split, in seconds. All labels of the split before have closed by the first."""

    train: tuple[int, int]
    validation: tuple[int, int]
    recent: tuple[int, int]
    test: tuple[int, int]

    @staticmethod
    def laid_out(span: tuple[int, int], labels: Labels, config: SnapshotConfig) -> Splits:
        """Lay the splits out from the end of the data backwards; raises ConfigError if the data is too short."""
        first, last = span
        horizon, width = horizon_s(labels), round(config.window_days * DAY_S)
        shift = horizon + width
        test = (last - shift, last - horizon)
        validation = (test[0] - shift, test[0] - horizon)
        train_last = validation[0] - horizon
        train = (first + round(config.every_days * DAY_S), train_last)
        if config.train_days:
            train = (max(train[0], train_last - round(config.train_days * DAY_S)), train_last)
        if train[1] < train[0]:
            needed = (3 * horizon + 2 * width) / DAY_S + config.every_days
            raise ConfigError(
                f"data spans {(last - first) / DAY_S:.0f} days, expected at least {needed:.0f} for a horizon of "
                f"{horizon / DAY_S:g} days in three splits; shorten the horizons or snapshots.window_days, "
                "or give more data"
            )
        return Splits(train, validation, (train[0] + shift, train[1] + shift), test)

    def containing(self, as_of: Seconds) -> dict[str, Mask]:
        """Which of the instants ``(n,)`` lie in each split. An instant may lie in recent and in one other split."""
        spans = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: (as_of >= first) & (as_of <= last) for name, (first, last) in spans.items()}


def horizon_s(labels: Labels) -> int:
    """The longest horizon of the labels, in seconds."""
    return round(max(labels.churn_days, *labels.purchase_days, labels.value_days) * DAY_S)
