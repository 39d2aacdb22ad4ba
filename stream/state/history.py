"""History: the last events of every user, oldest first in (time, content) order however they arrived."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream.contract.columns import HISTORY, HISTORY_LEN
from stream.state.rings import Runs, opaque, order_keys

__all__ = ["remember"]

Array = npt.NDArray[Any]


def remember(history: Array, users: Array, runs: Runs, changed: Array, events: Array) -> tuple[Array, Array]:
    """Put events into the histories, each kept in (time, content) order; returns whose what fell out is, and that.

    Events (``EVENT_PARTS``) are grouped by user, each accepted; ``changed`` (``USER``) are the users of the runs. What
    falls out are ``HISTORY`` entries as items of bytes.
    """
    history, entries, times = opaque(history), events["entry"].copy(), events["time"]
    before = np.concatenate((times[:1], times[:-1]))
    before[runs.starts] = changed["last_time"]
    in_turn = times > before
    if in_turn.all():
        return _append(history, users, runs, changed, entries)
    behind = _sort(history, runs, changed, entries, ~in_turn)
    merged = behind[runs.run_of]
    appended = np.flatnonzero(~merged)
    newer = _append(history, users[appended], runs.take(appended), changed, entries[appended])
    older = _merge(history, users[merged], runs.rows, changed, behind, entries[merged])
    return np.concatenate((newer[0], older[0])), np.concatenate((newer[1], older[1]))


def _sort(history: Array, runs: Runs, changed: Array, entries: Array, out_of_turn: Array) -> Array:
    """Sort the runs that have such entries, in place; which runs begin before what their users have."""
    behind = np.zeros(len(runs.rows), bool)
    behind[runs.run_of[out_of_turn]] = True
    at = np.flatnonzero(behind[runs.run_of])
    keys = order_keys(entries[at].view(HISTORY))
    order = np.lexsort((keys, runs.run_of[at]))
    entries[at] = entries[at[order]]
    following = changed["history_next"][behind].astype(np.int64)
    newest = history[runs.rows[behind] * HISTORY_LEN + (following - 1) % HISTORY_LEN]
    is_older = keys[order][runs.rank[at] == 0] < order_keys(newest.view(HISTORY))
    behind[behind] = is_older & (changed["history_len"][behind] > 0)
    return behind


def _append(history: Array, users: Array, runs: Runs, changed: Array, entries: Array) -> tuple[Array, Array]:
    """Add entries that are newer than all that their users have; returns what they push out, and whose."""
    slots = runs.slots(changed["history_next"], HISTORY_LEN)
    places, taken = users * HISTORY_LEN + slots, slots < changed["history_len"][runs.run_of]
    changed["history_next"] = (changed["history_next"] + runs.counts) % HISTORY_LEN
    changed["history_len"] = np.minimum(changed["history_len"] + runs.counts, HISTORY_LEN)
    if runs.longest <= HISTORY_LEN and not taken.any():
        history[places] = entries
        return users[:0], entries[:0]
    last = runs.from_end < HISTORY_LEN
    taken &= last
    whose = np.concatenate((users[taken], users[~last]))
    pushed_out = np.concatenate((history[places[taken]], entries[~last]))
    history[places[last]] = entries[last]
    return whose, pushed_out


def _merge(
    history: Array, users: Array, rows: Array, changed: Array, behind: Array, entries: Array
) -> tuple[Array, Array]:
    """Add entries that came out of order: sort them together with the histories of their users, ``behind``."""
    if not len(users):
        return users, entries
    of, slots = np.nonzero(np.arange(HISTORY_LEN) < changed["history_len"][behind][:, None])
    known = rows[behind][of]
    users = np.concatenate((known, users))
    entries = np.concatenate((history[known * HISTORY_LEN + slots], entries))
    order = np.lexsort((order_keys(entries.view(HISTORY)), users))
    users, entries = users[order], entries[order]
    runs = Runs.within(users)
    lengths = np.minimum(runs.counts, HISTORY_LEN)
    slots = lengths[runs.run_of] - 1 - runs.from_end
    history[(users * HISTORY_LEN + slots)[slots >= 0]] = entries[slots >= 0]
    changed["history_len"][behind] = lengths
    changed["history_next"][behind] = lengths % HISTORY_LEN
    return users[slots < 0], entries[slots < 0]
