"""Dataset: a history replayed through the serving state, features and encode into labelled examples.

An example is a user at an instant: its inputs are the state after all of the user's events up to that second,
its labels what came after it. Two kinds of instants, as in serving:

- **snapshots**, every ``every_days``: all users active in the last ``eligible_days``
- **at an event**: each event is taken by a toss of its own coin, whose odds know only the user's past, so no
  example is there because of what came later

Time is cut into windows for training, validation and test, each starting only after all label windows of the one
before have closed. *Recent* is the training window moved up to the test: its labels have closed by then too. What is
trained on it stands to the test as what was trained on the training window stands to the validation window, so
the calibration found there, drift over one horizon included, fits it (docs/decisions/0008).
Users whose horizon passes the end of the data are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from model_export.data.event_log import EventLog
from stream.contract.columns import DAY_S
from stream.contract.events import VALUE_SCALE, EventBatch, EventType
from stream.contract.manifest import Labels
from stream.errors import ConfigError
from stream.score.encode import encode
from stream.score.features import features
from stream.state.partition_state import PartitionState

__all__ = ["Dataset", "Examples", "Plan", "Windows", "build", "horizon_s"]

Array = npt.NDArray[Any]
#: Training sees every event, however late: this is longer than time itself.
_NEVER_LATE_S: Final = 2**40
#: Users whose inputs are made at once: about 30 MB of intermediate arrays.
_CHUNK: Final = 4_096


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which examples are made. Days may be fractions."""

    #: Days between snapshots: fewer give more, but more alike, examples.
    every_days: float = 14.0
    #: Length of the validation and of the test window.
    window_days: float = 14.0
    #: Length of the training window, from its end; 0: all there is. Old examples show a market that is no more.
    train_days: float = 0.0
    #: Odds of taking a user's first event after a snapshot; of the j-th, 1/j of it. 0: snapshots only.
    at_event: float = 0.5
    #: Most examples of each window; more are thinned by a seeded draw. One takes about 1.1 KB.
    examples_max: int = 400_000


@dataclass(frozen=True, slots=True)
class Examples:
    """``n`` labelled examples. ``tokens`` is kept in uint16, the model takes int32; value is in currency units.

    ``category`` is the hash bucket of the category of the user's next event that has one, 0 where there is none.
    """

    tokens: npt.NDArray[np.uint16]
    features: npt.NDArray[np.float32]
    churn: npt.NDArray[np.float32]
    purchase: npt.NDArray[np.float32]
    value: npt.NDArray[np.float64]
    category: npt.NDArray[np.uint16]
    user: npt.NDArray[np.int64]
    as_of: npt.NDArray[np.int64]
    applied_offset: npt.NDArray[np.int64]
    at_event: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def outcomes(self) -> npt.NDArray[np.float32]:
        """What came true ``(n, heads)``, 0 or 1: churn first, then purchase by horizon."""
        return np.column_stack((self.churn, self.purchase))

    def take(self, rows: Array) -> Examples:
        """These rows only."""
        return Examples(*(getattr(self, f.name)[rows] for f in fields(self)))

    def thinned(self, most: int, rng: np.random.Generator) -> Examples:
        """At most ``most`` rows, drawn without looking at them, in their order."""
        return self if len(self) <= most else self.take(np.sort(rng.choice(len(self), most, replace=False)))

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """The rows of several, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True, slots=True)
class Dataset:
    """The windows, users by index, and how many examples were left out for which reason."""

    train: Examples
    validation: Examples
    recent: Examples
    test: Examples
    names: list[str]
    span: tuple[int, int]
    left_out: Counter[str]
    #: Events that could not be used, by reason.
    dropped: Counter[str] = field(default_factory=Counter)
    #: hash bucket → name of categories.
    categories: dict[int, str] = field(default_factory=dict)

    def of_kind(self, at_event: bool) -> Dataset:
        """The examples at events alone, or those at snapshots."""
        train, validation, recent, test = (
            part.take(np.flatnonzero(part.at_event == at_event))
            for part in (self.train, self.validation, self.recent, self.test)
        )
        return replace(self, train=train, validation=validation, recent=recent, test=test)


@dataclass(frozen=True, slots=True)
class Windows:
    """First and last instant of each window, in seconds; a label window of the one before ends by ``first``."""

    train: tuple[int, int]
    validation: tuple[int, int]
    recent: tuple[int, int]
    test: tuple[int, int]

    @staticmethod
    def of(span: tuple[int, int], labels: Labels, plan: Plan) -> Windows:
        """Laid out from the end of the data backwards; raises ConfigError where it is too short."""
        first, last = span
        horizon, width = horizon_s(labels), round(plan.window_days * DAY_S)
        shift = horizon + width
        test = (last - shift, last - horizon)
        validation = (test[0] - shift, test[0] - horizon)
        train_last = validation[0] - horizon
        train = (first + round(plan.every_days * DAY_S), train_last)
        if plan.train_days:
            train = (max(train[0], train_last - round(plan.train_days * DAY_S)), train_last)
        if train[1] < train[0]:
            needed = (3 * horizon + 2 * width) / DAY_S + plan.every_days
            raise ConfigError(
                f"data spans {(last - first) / DAY_S:.0f} days, expected at least {needed:.0f} for a horizon of "
                f"{horizon / DAY_S:g} days in three windows; shorten the horizons or snapshots.window_days, "
                "or give more data"
            )
        return Windows(train, validation, (train[0] + shift, train[1] + shift), test)

    def holding(self, as_of: Array) -> dict[str, Array]:
        """Which instants ``(n,)`` each window holds; one may be in the recent and another window."""
        bounds = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: (as_of >= first) & (as_of <= last) for name, (first, last) in bounds.items()}


def horizon_s(labels: Labels) -> int:
    """The longest label window, in seconds."""
    return round(max(labels.churn_days, *labels.purchase_days, labels.value_days) * DAY_S)


def build(log: EventLog, labels: Labels, plan: Plan, seed: int) -> Dataset:
    """Replay ``log`` and label what it shows; deterministic for a seed."""
    windows = Windows.of(log.span, labels, plan)
    replay = _Replay(log, labels, plan, windows, seed)
    inputs = list(replay.run())
    tokens, numeric, user, as_of, offset, at_event = (np.concatenate(column) for column in zip(*inputs, strict=True))
    targets = _Labels(log, replay.accepted).of(user, as_of, labels)
    examples = Examples(tokens, numeric, *targets, user, as_of, offset, at_event)
    rng = np.random.default_rng(seed + 1)
    parts = {
        name: examples.take(inside).thinned(plan.examples_max, rng) for name, inside in windows.holding(as_of).items()
    }
    return Dataset(
        **parts,
        names=log.names,
        span=log.span,
        left_out=replay.left_out,
        dropped=log.dropped,
        categories=log.categories,
    )


class _Replay:
    """One pass over the history; ``accepted`` tells afterwards which events the state did not refuse."""

    def __init__(self, log: EventLog, labels: Labels, plan: Plan, windows: Windows, seed: int) -> None:
        self._log, self._labels, self._plan, self._windows, self._seed = log, labels, plan, windows, seed
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
        back = [np.arange(last, first - 1, -step) for first, last in (w.train, w.validation, w.recent, w.test)]
        beyond = np.arange(w.test[1] + step, end + 1, step)
        return np.unique(np.concatenate((*back, beyond, [end])))

    def _cuts(self, interval: Array) -> Array:
        """Sorted keys of the (user, second) instants at which an event's state is an example."""
        ordinal = _ordinals(_keys(self._log.users, interval))
        coin = np.random.default_rng(self._seed).random(len(interval))
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
        accepted = events[applied.accepted]
        self.accepted[accepted] = True
        known = np.flatnonzero(~np.isnan(self._log.sentiment[accepted]))
        if len(known):
            # As in serving, but at once: there a score with it follows as soon as the text was read.
            read = accepted[known]
            self._state.note_sentiments(
                applied.users[known], self._log.rows["offset"][read].astype(np.int64), self._log.sentiment[read]
            )

    def _eligible(self, t: int) -> Iterator[tuple[Array, ...]]:
        last = self._state.users["last_time"][: len(self._state)].astype(np.int64)
        users = np.flatnonzero((last > t - self._labels.eligible_days * DAY_S) & (last > 0))
        yield from self._inputs(users, np.full(len(users), t), at_event=False)

    def _inputs(self, users: Array, as_of: Array, at_event: bool) -> Iterator[tuple[Array, ...]]:
        inside = np.logical_or.reduce(list(self._windows.holding(as_of).values()))
        censored = as_of > self._windows.test[1]
        self.left_out["outside the windows"] += int((~inside & ~censored).sum())
        self.left_out["censored"] += int(censored.sum())
        users, as_of = users[inside], as_of[inside]
        for begin in range(0, len(users), _CHUNK):
            u, t = users[begin : begin + _CHUNK], as_of[begin : begin + _CHUNK]
            snapshot = self._state.snapshot(u)
            offset = snapshot.users["applied_offset"].astype(np.int64)
            tokens = encode(snapshot, t).astype(np.uint16)
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
        # Index of the first event from each place on that has a category; the end where there is none.
        at = np.where(rows["category"] > 0, np.arange(len(rows)), len(rows))
        self._next = np.append(np.minimum.accumulate(at[::-1])[::-1], len(rows))
        self._category = np.append(rows["category"], 0)

    def of(self, user: Array, as_of: Array, labels: Labels) -> tuple[Array, Array, Array, Array]:
        """Churn ``(n,)``, purchase ``(n, horizons)``, net value in currency units, not below 0, and next category."""
        begin = self._up_to(user, as_of, 0.0)
        churn = self._up_to(user, as_of, labels.churn_days) == begin
        ends = [self._up_to(user, as_of, days) for days in labels.purchase_days]
        purchase = np.column_stack([self._orders[end] > self._orders[begin] for end in ends])
        value = self._value[self._up_to(user, as_of, labels.value_days)] - self._value[begin]
        following = self._next[begin]
        inside = following < self._up_to(user, as_of, horizon_s(labels) / DAY_S)
        category = np.where(inside, self._category[following], 0).astype(np.uint16)
        return churn.astype(np.float32), purchase.astype(np.float32), np.maximum(value, 0) / VALUE_SCALE, category

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
