"""Final counts of each user: what every system must come to, and how to read it from where each system keeps it."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream.checkpoint import changelog
from stream.contract.columns import BUCKET_LEVELS, HISTORY_LEN, WINDOWS
from stream.contract.events import N_TYPES, SEGMENT_NAMES
from stream.score.features import windows
from stream.state.partition_state import PartitionState
from tests.broker.harness import Message

__all__ = ["UserCounts", "differences", "expected", "of_bytewax", "of_faust", "of_quix", "of_valuestream"]


class UserCounts(NamedTuple):
    """A user at their last event: number of events, counts per window and event type, times of the last 64 events."""

    n_events: int
    windows: tuple[tuple[int, ...], ...]
    last_times: tuple[int, ...]


def expected(messages: Iterable[Message]) -> dict[str, UserCounts]:
    """The counts made the plain way: drop repeats, sort by time, and look through every window."""
    users: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for _, value in messages:
        event = json.loads(value or b"")
        time = int(datetime.fromisoformat(event["timestamp"]).timestamp())
        users[event["userId"]].setdefault(event["messageId"], (time, _kind(event["event"])))
    return {user: _count_plainly(sorted(events.values())) for user, events in users.items()}


def _count_plainly(events: list[tuple[int, int]]) -> UserCounts:
    newest, counted = events[-1][0], []
    for level, length in WINDOWS.values():
        width_s = BUCKET_LEVELS[level][0]
        counts = [0] * N_TYPES
        for time, kind in events:
            counts[kind - 1] += newest // width_s - time // width_s < length
        counted.append(tuple(counts))
    return UserCounts(len(events), tuple(counted), tuple(time for time, _ in events[-HISTORY_LEN:]))


def of_valuestream(values: Mapping[str, bytes]) -> dict[str, UserCounts]:
    """Counts from the last changelog value of every user."""
    state = PartitionState(lateness_s=0)
    rows = changelog.load(state, list(values), list(values.values()))
    snapshot = state.snapshot(rows)
    counted, _ = windows(snapshot, snapshot.users["last_time"].astype(np.int64))
    return {
        user: UserCounts(
            int(head["n_events"]), tuple(map(tuple, counts.tolist())), tuple(times[: head["history_len"]].tolist())
        )
        for user, head, counts, times in zip(
            snapshot.ids, snapshot.users, counted, snapshot.history["time"], strict=True
        )
    }


def of_faust(values: Mapping[str, bytes]) -> dict[str, UserCounts]:
    """Counts from the last changelog value of every user of ``peers/faust_stock.py``. Its keys are JSON as well."""
    return {json.loads(key): _of_plain_user(json.loads(value)) for key, value in values.items()}


def of_quix(values: Mapping[str, bytes]) -> dict[str, UserCounts]:
    """Counts from the last changelog value of every user of ``peers/quix.py``. A key is ``user|name of the state``."""
    return {key.split("|", 1)[0].strip('"'): _of_plain_user(json.loads(value)) for key, value in values.items()}


def of_bytewax(folder: Path) -> dict[str, UserCounts]:
    """Counts from the newest snapshot of every user in the recovery store of ``peers/bytewax_flow.py``."""
    newest = "SELECT state_key, ser_change FROM snaps WHERE step_id LIKE '%windows%' ORDER BY snap_epoch"
    users: dict[str, bytes] = {}
    for part in sorted(folder.glob("*.sqlite3")):
        with closing(sqlite3.connect(part)) as store:
            users |= dict(store.execute(newest))
    # Unpickling is safe here: a process of ours wrote this a moment ago.
    return {user: _of_plain_user(json.loads(pickle.loads(value))) for user, value in users.items()}


def _of_plain_user(user: dict[str, Any]) -> UserCounts:
    counted = []
    for level, length in WINDOWS.values():
        width_s, buckets = BUCKET_LEVELS[level][0], list(user["buckets"].values())[level]
        counts = [0] * N_TYPES
        for number, by_kind in buckets.items():
            for name, n in by_kind.items():
                counts[_kind(name) - 1] += n * (user["newest"] // width_s - int(number) < length)
        counted.append(tuple(counts))
    return UserCounts(user["n_events"], tuple(counted), tuple(event[0] for event in user["events"]))


def differences(found: Mapping[str, UserCounts], expected_counts: Mapping[str, UserCounts]) -> list[str]:
    """A line for each user with other counts than expected."""
    return [
        f"{user}: found {found.get(user)}, expected {expected_counts.get(user)}"
        for user in sorted(found.keys() | expected_counts.keys())
        if found.get(user) != expected_counts.get(user)
    ]


def _kind(name: str) -> int:
    return int(SEGMENT_NAMES[name.lower()])
