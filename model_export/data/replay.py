"""Replay: runs a history through the serving state and keeps the inputs of every example on the way.

Examples are made at two kinds of instants, as in serving:

- **at snapshots**, every ``every_days``: one example of each user who was active in the last ``eligible_days``
- **at events**: a coin is tossed for each event. Its odds depend only on the past of the user, so no example is there
  because of what came later.

A user is left out, and counted, if the horizon passes the end of the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from model_export.data.event_log import NEVER_LATE_S, EventLog, UserTimeKeys, user_time_keys
from model_export.data.examples import StoredTokens
from model_export.data.splits import SnapshotConfig, Splits
from stream.arrays import Counts, FeatureRows, Mask, Numbers, Offsets, Rows, Seconds, Slots
from stream.contract.columns import DAY_S
from stream.contract.events import EventBatch
from stream.contract.manifest import Labels
from stream.score.encode import encode
from stream.score.features import features
from stream.state.partition_state import PartitionState

__all__ = ["Inputs", "Replay"]

#: Inputs of this many users are made at once: about 30 MB of intermediate arrays.
_CHUNK: Final = 4_096


class Inputs(NamedTuple):
    """Inputs of some examples: a row of each array for each example."""

    tokens: StoredTokens
    features: FeatureRows
    user: Rows
    as_of: Seconds
    applied_offset: Offsets
    at_event: Mask


class Replay:
    """One pass over the history. After :meth:`run`, ``accepted`` tells which events the state did not refuse.

    ``left_out`` counts the examples that were not made, by reason.
    """

    def __init__(self, log: EventLog, labels: Labels, config: SnapshotConfig, splits: Splits, *, seed: int) -> None:
        self._log, self._labels, self._config, self._splits, self._seed = log, labels, config, splits, seed
        self._state = PartitionState(NEVER_LATE_S)
        self._state.rows_of(log.names)  # in order: the row of a user is its index in names
        self._keys = user_time_keys(log.users, log.rows["time"])
        self.accepted: Mask = np.zeros(len(log), bool)
        self.left_out: Counter[str] = Counter()

    def run(self) -> Iterator[Inputs]:
        """The inputs of all examples."""
        times = self._log.rows["time"].astype(np.int64)
        snapshots = self._snapshot_times()
        example_keys = self._toss_coins(np.searchsorted(snapshots, times))
        begin = 0
        for as_of in snapshots.tolist():
            end = int(np.searchsorted(times, as_of, "right"))
            yield from self._apply_until_snapshot(np.arange(begin, end), example_keys)
            yield from self._at_snapshot(as_of)
            begin = end

    def _snapshot_times(self) -> Seconds:
        """Instants of the snapshots: from the end of each split backwards, and after the test split to the data's end.

        Nothing after the test split becomes an example: its users are counted as censored.
        """
        step = round(self._config.every_days * DAY_S)
        splits, end = self._splits, self._log.span[1]
        spans = (splits.train, splits.validation, splits.recent, splits.test)
        backwards = [np.arange(last, first - 1, -step) for first, last in spans]
        after_test = np.arange(splits.test[1] + step, end + 1, step)
        return np.unique(np.concatenate((*backwards, after_test, [end])))

    def _toss_coins(self, interval: Slots) -> UserTimeKeys:
        """Sorted (user, second) keys of the events that become examples; ``interval`` (n,) counts the snapshots so far.

        The odds fall with the number of events that the user had in the interval before.
        """
        ordinal = _ordinals(user_time_keys(self._log.users, interval))
        coin = np.random.default_rng(self._seed).random(len(interval))
        chosen = np.flatnonzero(coin < self._config.at_event / (1 + ordinal))
        return np.unique(self._keys[chosen])

    def _apply_until_snapshot(self, events: Slots, example_keys: UserTimeKeys) -> Iterator[Inputs]:
        """Apply these events in rounds, and yield the inputs of the examples at events that lie among them.

        In one round, the events of each user up to the user's next example are applied at once.
        """
        keys = self._keys[events]
        following = np.searchsorted(example_keys, keys)
        here = example_keys[np.unique(following[following < len(example_keys)])]
        here = here[np.isin(here, keys)]
        round_of_example = _ordinals(here >> 32)
        rounds_with_examples = int(round_of_example.max(initial=-1)) + 1
        next_example = np.searchsorted(here, keys)
        before_example = next_example < len(here)
        before_example[before_example] = here[next_example[before_example]] >> 32 == keys[before_example] >> 32
        round_of_event = np.full(len(events), rounds_with_examples)
        round_of_event[before_example] = round_of_example[next_example[before_example]]
        for r in range(rounds_with_examples + 1):
            self._apply(events[round_of_event == r])
            examples = here[round_of_example == r]
            yield from self._inputs(examples >> 32, examples & 0xFFFFFFFF, at_event=True)

    def _apply(self, events: Slots) -> None:
        names, users = self._log.names, self._log.users[events].tolist()
        applied = self._state.apply(EventBatch([names[u] for u in users], self._log.rows[events]))
        accepted = events[applied.accepted]
        self.accepted[accepted] = True
        with_sentiment = np.flatnonzero(~np.isnan(self._log.sentiment[accepted]))
        if len(with_sentiment):
            # Serving notes a sentiment when the text was read, and scores the user again. Here it is noted at once.
            reviews = accepted[with_sentiment]
            self._state.note_sentiments(
                applied.users[with_sentiment],
                self._log.rows["offset"][reviews].astype(np.int64),
                self._log.sentiment[reviews],
            )

    def _at_snapshot(self, as_of: int) -> Iterator[Inputs]:
        """The inputs of all users who are eligible at second ``as_of``."""
        last = self._state.users["last_time"][: len(self._state)].astype(np.int64)
        users = np.flatnonzero((last > as_of - self._labels.eligible_days * DAY_S) & (last > 0))
        yield from self._inputs(users, np.full(len(users), as_of), at_event=False)

    def _inputs(self, users: Rows, as_of: Seconds, *, at_event: bool) -> Iterator[Inputs]:
        """The inputs of these users at their instants. Instants outside all splits are left out and counted."""
        inside: Mask = np.logical_or.reduce(list(self._splits.containing(as_of).values()))
        censored = as_of > self._splits.test[1]
        # This key says "windows" and not "splits", as it stands in the dataset.json and run.json of older runs.
        self.left_out["outside the windows"] += int((~inside & ~censored).sum())
        self.left_out["censored"] += int(censored.sum())
        users, as_of = users[inside], as_of[inside]
        for begin in range(0, len(users), _CHUNK):
            user, instant = users[begin : begin + _CHUNK], as_of[begin : begin + _CHUNK]
            snapshot = self._state.snapshot(user)
            yield Inputs(
                tokens=encode(snapshot, instant).astype(np.uint16),
                features=features(snapshot, instant),
                user=user,
                as_of=instant,
                applied_offset=snapshot.users["applied_offset"].astype(np.int64),
                at_event=np.full(len(user), at_event),
            )


def _ordinals(groups: Numbers) -> Counts:
    """How many equal values stand before each one."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(groups) else order
    out = np.empty(len(groups), np.int64)
    out[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
    return out
