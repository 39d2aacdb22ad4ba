"""History: keep the last events of every user in (time, content) order, in whatever order they arrived."""

from __future__ import annotations

import numpy as np

from stream.arrays import EventRows, HistoryRows, Mask, Opaque, Rows, UserRows
from stream.contract.columns import HISTORY, HISTORY_LEN
from stream.state.rings import opaque
from stream.state.runs import Runs, order_keys

__all__ = ["remember"]


def remember(
    history: HistoryRows, users: Rows, runs: Runs, *, changed: UserRows, events: EventRows
) -> tuple[Rows, Opaque]:
    """Put events into the histories of their users, and keep each history in (time, content) order.

    ``events`` (``EVENT_PARTS``) are accepted events, grouped by user. ``users`` is the row of each, and ``changed`` has
    the columns of the users of the runs; the lengths and next slots of their rings are updated there.

    Returns the entries that fell out of the histories, and the row of the user that each belonged to: first the rows,
    then the ``HISTORY`` entries as raw bytes.
    """
    cells, entries, times = opaque(history), events["entry"].copy(), events["time"]
    previous = np.concatenate((times[:1], times[:-1]))
    previous[runs.starts] = changed["last_time"]
    in_order = times > previous
    if in_order.all():
        return _append(cells, users, runs, changed=changed, entries=entries)
    overlapping = _sort(cells, runs, changed=changed, entries=entries, out_of_order=~in_order)
    merged = overlapping[runs.run_of]
    appended = np.flatnonzero(~merged)
    newer = _append(cells, users[appended], runs.take(appended), changed=changed, entries=entries[appended])
    older = _merge(
        cells, users[merged], rows=runs.rows, changed=changed, overlapping=overlapping, entries=entries[merged]
    )
    return np.concatenate((newer[0], older[0])), np.concatenate((newer[1], older[1]))


def _sort(cells: Opaque, runs: Runs, *, changed: UserRows, entries: Opaque, out_of_order: Mask) -> Mask:
    """Sort, in place, the runs that have entries out of order.

    Returns which runs overlap the histories of their users: they begin before the newest entry there.
    """
    overlapping = np.zeros(len(runs.rows), bool)
    overlapping[runs.run_of[out_of_order]] = True
    at = np.flatnonzero(overlapping[runs.run_of])
    keys = order_keys(entries[at].view(HISTORY))
    order = np.lexsort((keys, runs.run_of[at]))
    entries[at] = entries[at[order]]
    next_slots = changed["history_next"][overlapping].astype(np.int64)
    newest = cells[runs.rows[overlapping] * HISTORY_LEN + (next_slots - 1) % HISTORY_LEN]
    is_older = keys[order][runs.rank[at] == 0] < order_keys(newest.view(HISTORY))
    overlapping[overlapping] = is_older & (changed["history_len"][overlapping] > 0)
    return overlapping


def _append(cells: Opaque, users: Rows, runs: Runs, *, changed: UserRows, entries: Opaque) -> tuple[Rows, Opaque]:
    """Add entries that come after all entries of their users.

    Returns the entries that they push out, and the row of the user that each belonged to: first the rows.
    """
    slots = runs.slots(changed["history_next"], HISTORY_LEN)
    places, occupied = users * HISTORY_LEN + slots, slots < changed["history_len"][runs.run_of]
    changed["history_next"] = (changed["history_next"] + runs.counts) % HISTORY_LEN
    changed["history_len"] = np.minimum(changed["history_len"] + runs.counts, HISTORY_LEN)
    if runs.longest <= HISTORY_LEN and not occupied.any():
        cells[places] = entries
        return users[:0], entries[:0]
    last = runs.from_end < HISTORY_LEN
    occupied &= last
    owners = np.concatenate((users[occupied], users[~last]))
    pushed_out = np.concatenate((cells[places[occupied]], entries[~last]))
    cells[places[last]] = entries[last]
    return owners, pushed_out


def _merge(
    cells: Opaque, users: Rows, *, rows: Rows, changed: UserRows, overlapping: Mask, entries: Opaque
) -> tuple[Rows, Opaque]:
    """Add the entries of overlapping runs: sort them together with the histories of their users.

    ``rows`` are the rows of all runs. Returns what falls out, in the same form as :func:`_append`.
    """
    if not len(users):
        return users, entries
    nth, slots = np.nonzero(np.arange(HISTORY_LEN) < changed["history_len"][overlapping][:, None])
    known = rows[overlapping][nth]
    users = np.concatenate((known, users))
    entries = np.concatenate((cells[known * HISTORY_LEN + slots], entries))
    order = np.lexsort((order_keys(entries.view(HISTORY)), users))
    users, entries = users[order], entries[order]
    runs = Runs.within(users)
    lengths = np.minimum(runs.counts, HISTORY_LEN)
    slots = lengths[runs.run_of] - 1 - runs.from_end
    cells[(users * HISTORY_LEN + slots)[slots >= 0]] = entries[slots >= 0]
    changed["history_len"][overlapping] = lengths
    changed["history_next"][overlapping] = lengths % HISTORY_LEN
    return users[slots < 0], entries[slots < 0]
