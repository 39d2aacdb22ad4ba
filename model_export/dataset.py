"""Dataset: a history replayed through the serving state, features and encode into labelled examples.

An example is a user at an instant: its inputs are the state after all of the user's events up to that second,
its labels what came after it. Two kinds of instants, as in serving:

- **snapshots**, every ``every_days``: all users active in the last ``eligible_days``
- **at an event**: each event is taken by a toss of its own coin, whose odds know only the user's past, so no
  example is there because of what came later

Time is cut into three windows, each starting only after all label windows of the one before have closed.
Users whose horizon passes the end of the data are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from model_export.history import EventLog
from stream.contract.columns import DAY_S
from stream.contract.events import VALUE_SCALE, EventBatch, EventType
from stream.contract.manifest import Labels
from stream.encode import encode
from stream.errors import ConfigError
from stream.features import features
from stream.state import PartitionState

__all__ = ["Dataset", "Examples", "Plan", "Windows", "build"]

Array = npt.NDArray[Any]
#: Training sees every event, however late: this is longer than time itself.
_NEVER_LATE_S: Final = 2**40
#: Users whose inputs are made at once: about 30 MB of intermediate arrays.
_CHUNK: Final = 4_096


class Plan(msgspec.Struct, frozen=True):
    """Which examples are made. Days may be fractions."""

    labels: Labels
    #: Days between snapshots: fewer give more, but more alike, examples.
    every_days: float = 14.0
    #: Length of the validation and of the test window.
    window_days: float = 14.0
    #: Odds of taking a user's first event after a snapshot; of the j-th, 1/j of it. 0: snapshots only.
    at_event: float = 0.5
    #: Most examples of each window; more are thinned by a seeded draw. One takes about 1.1 KB.
    examples_max: int = 400_000
    seed: int = 7

    @property
    def horizon_s(self) -> int:
        """The longest label window, in seconds."""
        return round(max(self.labels.churn_days, *self.labels.purchase_days, self.labels.value_days) * DAY_S)


@dataclass(frozen=True, slots=True)
class Examples:
    """``n`` labelled examples. ``tokens`` is kept in int16, the model takes int32; value is in currency units."""

    tokens: npt.NDArray[np.int16]
    features: npt.NDArray[np.float32]
    churn: npt.NDArray[np.float32]
    purchase: npt.NDArray[np.float32]
    value: npt.NDArray[np.float64]
    user: npt.NDArray[np.int64]
    as_of: npt.NDArray[np.int64]
    applied_offset: npt.NDArray[np.int64]
    at_event: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Array) -> Examples:
        """These rows only."""
        return Examples(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Dataset:
    """The three windows, and how many examples were left out for which reason."""

    train: Examples
    validation: Examples
    test: Examples
    names: list[str]
    span: tuple[int, int]
    left_out: Counter[str]


@dataclass(frozen=True, slots=True)
class Windows:
    """First and last instant of each window, in seconds; a label window of the one before ends by ``first``."""

    train: tuple[int, int]
    validation: tuple[int, int]
    test: tuple[int, int]

    @staticmethod
    def of(span: tuple[int, int], plan: Plan) -> Windows:
        """Laid out from the end of the data backwards; raises ConfigError where it is too short."""
        first, last = span
        horizon, width = plan.horizon_s, round(plan.window_days * DAY_S)
        test = (last - horizon - width, last - horizon)
        validation = (test[0] - horizon - width, test[0] - horizon)
        train = (first + round(plan.every_days * DAY_S), validation[0] - horizon)
        if train[1] < train[0]:
            needed = (3 * horizon + 2 * width) / DAY_S + plan.every_days
            raise ConfigError(
                f"data spans {(last - first) / DAY_S:.0f} days, expected at least {needed:.0f} for a horizon of "
                f"{horizon / DAY_S:g} days in three windows; shorten the horizons or --window-days, or give more data"
            )
        return Windows(train, validation, test)

    def of_instants(self, as_of: Array) -> Array:
        """0, 1, 2 for train, validation, test; -1 outside of them, -2 where the horizon is censored."""
        out = np.full(len(as_of), -1)
        for w, (first, last) in enumerate((self.train, self.validation, self.test)):
            out[(as_of >= first) & (as_of <= last)] = w
        out[as_of > self.test[1]] = -2
        return out


def build(log: EventLog, plan: Plan) -> Dataset:
    """Replay ``log`` and label what it shows; deterministic for a seed."""
    windows = Windows.of(log.span, plan)
    replay = _Replay(log, plan, windows)
    inputs = list(replay.run())
    tokens, numeric, user, as_of, offset, at_event = (np.concatenate(column) for column in zip(*inputs, strict=True))
    labels = _Labels(log, replay.accepted).of(user, as_of, plan.labels)
    examples = Examples(tokens, numeric, *labels, user, as_of, offset, at_event)
    parts = windows.of_instants(as_of)
    rng = np.random.default_rng(plan.seed + 1)
    train, validation, test = (
        examples.take(_thinned(np.flatnonzero(parts == w), plan.examples_max, rng)) for w in range(3)
    )
    return Dataset(train, validation, test, log.names, log.span, replay.left_out)


class _Replay:
    """One pass over the history; ``accepted`` tells afterwards which events the state did not refuse."""

    def __init__(self, log: EventLog, plan: Plan, windows: Windows) -> None:
        self._log, self._plan, self._windows = log, plan, windows
        self._state = PartitionState(_NEVER_LATE_S)
        self._state.rows_of(log.names)  # in order: a user's row is its index in names
        self._keys = _keys(log.users, log.rows["time"])
        self.accepted = np.zeros(len(log), bool)
        self.left_out: Counter[str] = Counter()

    def run(self) -> Iterator[tuple[Array, ...]]:
        """Inputs of all examples: tokens, features, user, instant, applied offset, whether at an event."""
        times = self._log.rows["time"].astype(np.int64)
        grid = self._grid()
        cuts = self._cuts(np.searchsorted(grid, times))
        begin = 0
        for t in grid.tolist():
            end = int(np.searchsorted(times, t, "right"))
            yield from self._interval(np.arange(begin, end), cuts)
            yield from self._eligible(t)
            begin = end

    def _grid(self) -> Array:
        """Snapshot instants: from each window's last one backwards, and on to the end of the data to be counted."""
        step = round(self._plan.every_days * DAY_S)
        w, end = self._windows, self._log.span[1]
        back = [np.arange(last, first - 1, -step) for first, last in (w.train, w.validation, w.test)]
        beyond = np.arange(w.test[1] + step, end + 1, step)
        return np.unique(np.concatenate((*back, beyond, [end])))

    def _cuts(self, interval: Array) -> Array:
        """Sorted keys of the (user, second) instants at which an event's state is an example."""
        ordinal = _ordinals(_keys(self._log.users, interval))
        coin = np.random.default_rng(self._plan.seed).random(len(interval))
        taken = np.flatnonzero(coin < self._plan.at_event / (1 + ordinal))
        return np.unique(self._keys[taken])

    def _interval(self, events: Array, cuts: Array) -> Iterator[tuple[Array, ...]]:
        """Apply these events, user by user in rounds that end at the user's next cut; gives the states there."""
        keys = self._keys[events]
        following = np.searchsorted(cuts, keys)
        inside = cuts[np.unique(following[following < len(cuts)])]
        inside = inside[np.isin(inside, keys)]
        rank = _ordinals(inside >> 32)
        at = np.searchsorted(inside, keys)
        has_cut = at < len(inside)
        has_cut[has_cut] = inside[at[has_cut]] >> 32 == keys[has_cut] >> 32
        final = int(rank.max(initial=-1)) + 1
        rounds = np.full(len(events), final)
        rounds[has_cut] = rank[at[has_cut]]
        for r in range(final + 1):
            self._apply(events[rounds == r])
            here = inside[rank == r]
            yield from self._inputs(here >> 32, here & 0xFFFFFFFF, at_event=True)

    def _apply(self, events: Array) -> None:
        names, users = self._log.names, self._log.users[events].tolist()
        applied = self._state.apply(EventBatch([names[u] for u in users], self._log.rows[events]))
        self.accepted[events[applied.accepted]] = True

    def _eligible(self, t: int) -> Iterator[tuple[Array, ...]]:
        last = self._state.users["last_time"][: len(self._state)].astype(np.int64)
        users = np.flatnonzero((last > t - self._plan.labels.eligible_days * DAY_S) & (last > 0))
        yield from self._inputs(users, np.full(len(users), t), at_event=False)

    def _inputs(self, users: Array, as_of: Array, at_event: bool) -> Iterator[tuple[Array, ...]]:
        window = self._windows.of_instants(as_of)
        self.left_out["outside the windows"] += int((window == -1).sum())
        self.left_out["censored"] += int((window == -2).sum())
        users, as_of = users[window >= 0], as_of[window >= 0]
        for begin in range(0, len(users), _CHUNK):
            u, t = users[begin : begin + _CHUNK], as_of[begin : begin + _CHUNK]
            snapshot = self._state.snapshot(u)
            offset = snapshot.users["applied_offset"].astype(np.int64)
            tokens = encode(snapshot, t).astype(np.int16)
            yield tokens, features(snapshot, t), u, t, offset, np.full(len(u), at_event)


class _Labels:
    """What came after an instant, from the events that the state accepted."""

    def __init__(self, log: EventLog, accepted: Array) -> None:
        users, rows = log.users[accepted], log.rows[accepted]
        keys = _keys(users, rows["time"])
        order = np.argsort(keys, kind="stable")
        self._keys, rows = keys[order], rows[order]
        self._orders = np.concatenate(([0], np.cumsum(rows["type"] == EventType.PURCHASE)))
        self._value = np.concatenate(([0], np.cumsum(rows["value"].astype(np.int64))))

    def of(self, user: Array, as_of: Array, labels: Labels) -> tuple[Array, Array, Array]:
        """Churn ``(n,)``, purchase ``(n, horizons)``, net value in currency units, not below 0, ``(n,)``."""
        begin = self._up_to(user, as_of, 0.0)
        churn = self._up_to(user, as_of, labels.churn_days) == begin
        ends = [self._up_to(user, as_of, days) for days in labels.purchase_days]
        purchase = np.column_stack([self._orders[end] > self._orders[begin] for end in ends])
        value = self._value[self._up_to(user, as_of, labels.value_days)] - self._value[begin]
        return churn.astype(np.float32), purchase.astype(np.float32), np.maximum(value, 0) / VALUE_SCALE

    def _up_to(self, user: Array, as_of: Array, days: float) -> Array:
        """Number of events, in (user, time) order, up to and with the second ``days`` after ``as_of``."""
        return np.searchsorted(self._keys, _keys(user, as_of + round(days * DAY_S)), "right")


def _keys(users: Array, seconds: Array) -> Array:
    """One sortable int64 of a user and a time below 2³² s (or any other small number)."""
    out: Array = (users << 32) | seconds.astype(np.int64)
    return out


def _ordinals(groups: Array) -> Array:
    """How many equal values stand before each one."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(groups) else order
    out = np.empty(len(groups), np.int64)
    out[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    return out


def _thinned(rows: Array, most: int, rng: np.random.Generator) -> Array:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
