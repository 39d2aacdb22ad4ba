"""Orders: remember the last orders of each user, so that what is said twice about one counts once.

An order may come line by line, be updated, and be given back in parts. Every event of it counts with the money by which
it changes what was paid for the order and kept. So revenue is right at any time, in every window that sums up events.

- The first event that says what was paid is the PURCHASE. It counts as an order; no later one does.
- Other lines, and updates, are OTHER: they change only money.
- Nothing is given back twice, nor more than was paid. A refund that has nothing left to give back is a repeat.
- A refund or cancellation that comes before its order is remembered, and is subtracted when the order comes.

The last ``ORDERS_LEN`` orders of a user are remembered, in the order in which they were first named. What names an
older one counts as if it named a new order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from stream.arrays import EventRows, Hashes, Mask, OrderNotes, OrderRows, Rows, Slots
from stream.contract.columns import EVENT_PARTS, ORDER, ORDERS_LEN
from stream.contract.events import NO_ORDERS, ORDER_NOTE, EventBatch, EventType, OrderChange
from stream.state.pool import Pool
from stream.state.rings import opaque, opaque_rows
from stream.state.runs import Runs

__all__ = ["Orders"]

_NOTHING, _LINES, _ALL = range(3)
#: Change → the ``known`` of an order that is named for the first time.
_KNOWN_BY: Final = np.array([_NOTHING, _ALL, _LINES, _ALL, _NOTHING, _NOTHING], np.uint8)
#: The money of one order stays below this, however often a sender adds to it: it must fit an int64.
_MONEY_MAX: Final = 2**61


class Orders(Pool):
    """The last orders of users: ``ORDERS_LEN`` items of dtype ``ORDER`` for each user who has ordered, oldest first."""

    def __init__(self) -> None:
        super().__init__(ORDER, ORDERS_LEN)

    def settle(self, users: Rows, accepted: Slots, batch: EventBatch) -> tuple[Rows, Slots, EventRows]:
        """Give each event the type and value with which it counts, and remember its order.

        ``accepted`` (n,) are indices of events in the batch, grouped by user and in order of arrival; ``users`` (n,)
        are their state rows. Returns both without the events that are repeats, and the events as they count
        (``EVENT_PARTS``).
        """
        events = opaque(batch.rows)[accepted]
        notes = opaque(batch.orders)[accepted].view(ORDER_NOTE) if len(batch.orders) else NO_ORDERS
        (naming,) = notes["change"].nonzero()
        if not len(naming):
            return users, accepted, events.view(EVENT_PARTS)
        named: EventRows = events[naming].view(EVENT_PARTS)
        counts = np.ones(len(users), bool)
        counts[naming] = self._settle_named(users[naming], notes[naming], named)
        events[naming] = opaque(named)
        if not counts.all():
            users, accepted, events = users[counts], accepted[counts], events[counts]
        return users, accepted, events.view(EVENT_PARTS)

    def _settle_named(self, users: Rows, notes: OrderNotes, events: EventRows) -> Mask:
        """Settle events that each name an order, all of shape ``(n,)``. Their types and values are changed in place.

        Returns which of them count.
        """
        places = self.rows_of(users)
        known: OrderRows = opaque_rows(self.items)[places].view(ORDER).reshape(-1, ORDERS_LEN)
        # What names a known order, or is not the only event of its user, is taken one by one.
        one_by_one = (known["order"] == notes["order"][:, None]).any(axis=1)
        same_user = places[1:] == places[:-1]
        one_by_one[1:] |= same_user
        one_by_one[:-1] |= same_user
        new = (~one_by_one).nonzero()[0]
        self._append(places[new], known["order"][new], _named_first(notes[new], events[new]))
        counts = np.ones(len(users), bool)
        rest = one_by_one.nonzero()[0]
        for run in Runs.within(places[rest]).slices() if len(rest) else ():
            of_user = slice(int(rest[run.start]), int(rest[run.stop - 1]) + 1)
            row = self.items[places[of_user.start]]
            counts[of_user] = self._settle_one_by_one(row, notes[of_user], events[of_user])
        return counts

    def _append(self, places: Rows, keys: Hashes, orders: OrderRows) -> None:
        """Remember a new order of each of these users, whose orders have these keys ``(n, ORDERS_LEN)``.

        A full row loses its oldest order.
        """
        lengths: Slots = np.count_nonzero(keys, axis=1)
        full = lengths == ORDERS_LEN
        if full.any():
            self.items[places[full], :-1] = self.items[places[full], 1:]
        opaque(self.items)[places * ORDERS_LEN + np.minimum(lengths, ORDERS_LEN - 1)] = opaque(orders)

    @staticmethod
    def _settle_one_by_one(row: OrderRows, notes: OrderNotes, events: EventRows) -> list[bool]:
        """Settle the events of one user, whose orders are ``row``. Returns which of them count."""
        orders = {entry[0]: _Order(*entry[1:]) for entry in row.tolist() if entry[0]}
        counts = []
        for i, (key, change) in enumerate(notes.tolist()):
            order = orders.get(key) or _Order()
            before = order.kept
            kind = order.settle(change, abs(int(events["value"][i])))
            counts.append(kind is not None)
            if kind is not None:
                orders[key] = order
                events["type"][i], events["value"][i] = kind, order.kept - before
                if len(orders) > ORDERS_LEN:
                    del orders[next(iter(orders))]
        row[:] = 0
        row[: len(orders)] = [(key, *order.columns) for key, order in orders.items()]
        return counts


@dataclass(slots=True)
class _Order:
    """One order; the fields are those of ``ORDER``."""

    paid: int = 0
    refunded: int = 0
    known: int = _NOTHING
    cancelled: int = 0

    @property
    def columns(self) -> tuple[int, int, int, int]:
        """All fields, in the order of ``ORDER``."""
        return self.paid, self.refunded, self.known, self.cancelled

    @property
    def kept(self) -> int:
        """What the shop has of it, in hundredths; below zero while nobody said what was paid."""
        if self.known:
            return 0 if self.cancelled else self.paid - min(self.refunded, self.paid)
        return -self.refunded

    def settle(self, change: int, amount: int) -> EventType | None:
        """Take in what an event says. Returns the type with which it counts; None for a repeat, which changes nothing.

        ``amount`` is not below zero.
        """
        if change in (OrderChange.REFUND, OrderChange.CANCEL):
            return self._give_back(change, amount)
        if change == OrderChange.TOTAL and self.known == _ALL:
            return None
        is_first = not self.known
        self._note_paid(change, amount)
        return EventType.PURCHASE if is_first else EventType.OTHER

    def _note_paid(self, change: int, amount: int) -> None:
        if change != OrderChange.LINE:
            self.paid, self.known = amount, _ALL
        elif self.known != _ALL:
            self.paid, self.known = min(self.paid + amount, _MONEY_MAX), _LINES

    def _give_back(self, change: int, amount: int) -> EventType | None:
        nothing_left = self.known and self.paid and not self.kept
        if nothing_left or (change == OrderChange.CANCEL and self.cancelled):
            return None
        if change == OrderChange.CANCEL:
            self.cancelled = 1
        else:
            self.refunded = min(self.refunded + amount, _MONEY_MAX)
        return EventType.REFUND


def _named_first(notes: OrderNotes, events: EventRows) -> OrderRows:
    """The orders that these events name for the first time. They count as they are."""
    orders = np.zeros(len(notes), ORDER)
    change, value = notes["change"], events["value"]
    orders["order"], orders["known"] = notes["order"], _KNOWN_BY[change]
    orders["paid"] = np.where(orders["known"] > 0, value, 0)
    orders["refunded"] = np.where(change == OrderChange.REFUND, -value, 0)
    orders["cancelled"] = change == OrderChange.CANCEL
    return orders
