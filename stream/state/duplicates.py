"""Duplicates: tell repeated events by the identities of the last accepted events of each user."""

from __future__ import annotations

import numpy as np

from stream.arrays import Hashes, Mask, Rows, UserRows
from stream.contract.columns import SEEN_LEN
from stream.state.rings import unrolled
from stream.state.runs import Runs

__all__ = ["first_seen", "note_seen"]


def first_seen(seen: Hashes, columns: UserRows, users: Rows, identities: Hashes) -> Mask:
    """Which of these events are not repeats; shape ``(len(users),)``.

    The events are grouped by user and in order of arrival. ``seen`` (the rings of identities) and ``columns`` are those
    of all users.
    """
    keep = np.ones(len(users), bool)
    for user in dict.fromkeys(users[_maybe_repeated(seen, users, identities)].tolist()):
        first, last = np.searchsorted(users, (user, user + 1))
        ring = unrolled(seen[user], columns["seen_len"][user], columns["seen_next"][user])
        keep[first:last] = _first_seen_exactly(ring.tolist(), identities[first:last].tolist())
    return keep


def _maybe_repeated(seen: Hashes, users: Rows, identities: Hashes) -> Mask:
    """Which events have a remembered identity, or the identity of another event in the batch."""
    known = seen.take(users, axis=0) == identities[:, None]
    repeated: Mask = known.any(axis=1) if known.any() else np.zeros(len(users), bool)
    mixed = identities ^ (users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    ordered = np.sort(mixed)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        # np.isin would call np.unique, which imports numpy.ma at its first call: the first events would wait 50 ms.
        repeated |= twice[np.searchsorted(twice, mixed).clip(max=len(twice) - 1)] == mixed
    return repeated


def _first_seen_exactly(recent: list[int], identities: list[int]) -> list[bool]:
    """Which events of one user, taken one by one, are not repeats.

    An event is a repeat if its identity is among the last ``SEEN_LEN`` accepted ones.
    """
    keep = []
    for identity in identities:
        keep.append(identity not in recent)
        if keep[-1]:
            recent.append(identity)
            del recent[:-SEEN_LEN]
    return keep


def note_seen(seen: Hashes, users: Rows, runs: Runs, *, changed: UserRows, identities: Hashes) -> None:
    """Remember the identities of accepted events; ``changed`` are the columns of the users of the runs."""
    places = users * SEEN_LEN + runs.slots(changed["seen_next"], SEEN_LEN)
    if runs.longest > SEEN_LEN:
        last = runs.from_end < SEEN_LEN
        places, identities = places[last], identities[last]
    seen.reshape(-1)[places] = identities
    changed["seen_next"] = (changed["seen_next"] + runs.counts) % SEEN_LEN
    changed["seen_len"] = np.minimum(changed["seen_len"] + runs.counts, SEEN_LEN)
