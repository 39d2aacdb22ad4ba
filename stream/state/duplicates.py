"""Seen: the identities of the last accepted events of every user, by which repeats are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.contract.columns import SEEN_LEN
from stream.state.rings import Runs, unrolled

__all__ = ["first_seen", "note_seen"]

Array = npt.NDArray[Any]


def first_seen(seen: Array, columns: Array, users: Array, identity: Array) -> Array:
    """Which of these events, grouped by user and in order of arrival, are not repeats; ``columns`` are of all users."""
    keep = np.ones(len(users), bool)
    for user in dict.fromkeys(users[_maybe_repeated(seen, users, identity)].tolist()):
        first, last = np.searchsorted(users, (user, user + 1))
        ring = unrolled(seen[user], columns["seen_len"][user], columns["seen_next"][user])
        keep[first:last] = _first_seen_exactly(ring.tolist(), identity[first:last].tolist())
    return keep


def _maybe_repeated(seen: Array, users: Array, identity: Array) -> Array:
    """Which events have the identity of one that is remembered, or of another in the batch."""
    known = seen.take(users, axis=0) == identity[:, None]
    repeated: Array = known.any(axis=1) if known.any() else np.zeros(len(users), bool)
    mixed = identity ^ (users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    ordered = np.sort(mixed)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        # np.isin would ask np.unique, which imports numpy.ma first: the first events would wait 50 ms for it.
        repeated |= twice[np.searchsorted(twice, mixed).clip(max=len(twice) - 1)] == mixed
    return repeated


def _first_seen_exactly(recent: list[int], identities: list[int]) -> list[bool]:
    """One user's events one by one: a repeat is one whose identity is among the last SEEN_LEN accepted."""
    keep = []
    for identity in identities:
        keep.append(identity not in recent)
        if keep[-1]:
            recent.append(identity)
            del recent[:-SEEN_LEN]
    return keep


def note_seen(seen: Array, users: Array, runs: Runs, changed: Array, identity: Array) -> None:
    """Remember the identities of accepted events; ``changed`` are the users of the runs."""
    places = users * SEEN_LEN + runs.slots(changed["seen_next"], SEEN_LEN)
    if runs.longest > SEEN_LEN:
        last = runs.from_end < SEEN_LEN
        places, identity = places[last], identity[last]
    seen.reshape(-1)[places] = identity
    changed["seen_next"] = (changed["seen_next"] + runs.counts) % SEEN_LEN
    changed["seen_len"] = np.minimum(changed["seen_len"] + runs.counts, SEEN_LEN)
