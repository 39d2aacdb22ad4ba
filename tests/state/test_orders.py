"""Tests of orders: what is said twice about an order counts once, and nothing is given back that was not paid."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.checkpoint import changelog
from stream.contract.columns import DAY_S, HISTORY_LEN, ORDERS_LEN
from stream.contract.events import EVENT, ORDER_NOTE, EventBatch, EventType, OrderChange
from stream.score.features import windows
from stream.state.erasure import Erasure
from stream.state.partition_state import PartitionState

START = 1_735_603_200
TOTAL, LINE, UPDATE, REFUND, CANCEL = OrderChange
_OTHER, _PURCHASE, _REFUND = int(EventType.OTHER), int(EventType.PURCHASE), int(EventType.REFUND)


@dataclass(frozen=True)
class Said:
    """What one event says about an order; ``amount`` is in hundredths and not below zero."""

    change: OrderChange
    amount: int = 0
    order: int = 1
    user: str = "ann"
    identity: int | None = None


def batch(said: Iterable[Said], first: int = 0) -> EventBatch:
    """These events at offsets from ``first`` on, as decode makes them."""
    said = list(said)
    rows, notes = np.zeros(len(said), EVENT), np.zeros(len(said), ORDER_NOTE)
    for i, one in enumerate(said):
        gives_back = one.change in (REFUND, CANCEL)
        value, kind = (-one.amount, _REFUND) if gives_back else (one.amount, _PURCHASE)
        identity = one.identity or (10_000 + one.order if one.change == TOTAL else 20_000 + first + i)
        rows[i] = (first + i, identity, START + first + i, value, 0, 0, kind)
        notes[i] = one.order, one.change
    return EventBatch([one.user for one in said], rows, notes)


def state_after(*said: Said) -> PartitionState:
    state = PartitionState(DAY_S, "USD")
    state.apply(batch(said))
    return state


def came_to(state: PartitionState, user: str = "ann") -> tuple[int, int, list[tuple[int, int]]]:
    """Orders, revenue, and type and value of each event of the history."""
    snapshot = state.snapshot(state.rows_of([user]))
    row = snapshot.users[0]
    history = snapshot.history[0][: row["history_len"]]
    return int(row["orders"]), int(row["revenue"]), history[["type", "value"]].tolist()


# Cases ---------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[list[Said], int, int, list[tuple[int, int]]]] = {
    "lines one by one": (
        [Said(LINE, 2_000), Said(LINE, 1_500), Said(LINE, 500)],
        1,
        4_000,
        [(_PURCHASE, 2_000), (_OTHER, 1_500), (_OTHER, 500)],
    ),
    "a total after its lines": ([Said(LINE, 10), Said(TOTAL, 70)], 1, 70, [(_PURCHASE, 10), (_OTHER, 60)]),
    "a line after the total": ([Said(TOTAL, 70), Said(LINE, 10)], 1, 70, [(_PURCHASE, 70), (_OTHER, 0)]),
    "a total again, under another identity": (
        [Said(TOTAL, 70), Said(TOTAL, 80, identity=5)],
        1,
        70,
        [(_PURCHASE, 70)],
    ),
    "an update replaces": ([Said(TOTAL, 70), Said(UPDATE, 50)], 1, 50, [(_PURCHASE, 70), (_OTHER, -20)]),
    "an update of an unknown order": ([Said(UPDATE, 50), Said(TOTAL, 70)], 1, 50, [(_PURCHASE, 50)]),
    "refund twice": ([Said(TOTAL, 50), Said(REFUND, 50), Said(REFUND, 50)], 1, 0, [(_PURCHASE, 50), (_REFUND, -50)]),
    "cancellation and refund": (
        [Said(TOTAL, 50), Said(CANCEL), Said(REFUND, 50)],
        1,
        0,
        [(_PURCHASE, 50), (_REFUND, -50)],
    ),
    "refund and cancellation": (
        [Said(TOTAL, 50), Said(REFUND, 20), Said(CANCEL)],
        1,
        0,
        [(_PURCHASE, 50), (_REFUND, -20), (_REFUND, -30)],
    ),
    "never more than was paid": (
        [Said(TOTAL, 50), Said(REFUND, 30), Said(REFUND, 30)],
        1,
        0,
        [(_PURCHASE, 50), (_REFUND, -30), (_REFUND, -20)],
    ),
    "a refund without an amount is of all of it": (
        [Said(TOTAL, 50), Said(CANCEL)],
        1,
        0,
        [(_PURCHASE, 50), (_REFUND, -50)],
    ),
    "cancelled twice": ([Said(CANCEL), Said(CANCEL)], 0, 0, [(_REFUND, 0)]),
    "a refund before its order": ([Said(REFUND, 20), Said(TOTAL, 50)], 1, 30, [(_REFUND, -20), (_PURCHASE, 50)]),
    "a cancellation before its order": ([Said(CANCEL), Said(TOTAL, 50)], 1, 0, [(_REFUND, 0), (_PURCHASE, 0)]),
    "a refund of lines, then more lines": (
        [Said(LINE, 20), Said(REFUND, 50), Said(LINE, 40)],
        1,
        10,
        [(_PURCHASE, 20), (_REFUND, -20), (_OTHER, 10)],
    ),
    "an update after a refund": (
        [Said(TOTAL, 50), Said(REFUND, 50), Said(UPDATE, 80)],
        1,
        30,
        [(_PURCHASE, 50), (_REFUND, -50), (_OTHER, 30)],
    ),
    "a refund of nothing": ([Said(TOTAL, 50), Said(REFUND, 0)], 1, 50, [(_PURCHASE, 50), (_REFUND, 0)]),
    "two orders": (
        [Said(TOTAL, 50), Said(TOTAL, 70, order=2), Said(CANCEL)],
        2,
        70,
        [(_PURCHASE, 50), (_PURCHASE, 70), (_REFUND, -50)],
    ),
    "as large as an order in IDR": (
        [Said(TOTAL, 10**13), Said(LINE, 10**13, order=2)],
        2,
        2 * 10**13,
        [(_PURCHASE, 10**13)] * 2,
    ),
}


@pytest.mark.parametrize("one_by_one", [False, True], ids=["one fetch", "a fetch each"])
@pytest.mark.parametrize("case", CASES)
def test_orders_count_as_their_events_say(case: str, one_by_one: bool) -> None:
    said, orders, revenue, history = CASES[case]
    state = PartitionState(DAY_S, "USD")
    applied = [state.apply(batch([one], i)) for i, one in enumerate(said)] if one_by_one else [state.apply(batch(said))]
    assert came_to(state) == (orders, revenue, history)
    assert sum(a.n_accepted for a in applied) == len(history)
    assert sum(a.n_duplicate for a in applied) == len(said) - len(history)


def test_events_are_handed_on_as_they_count() -> None:
    state = PartitionState(DAY_S)
    applied = state.apply(batch([Said(TOTAL, 50), Said(UPDATE, 20)]))
    assert applied.events[["type", "value"]].tolist() == [(_PURCHASE, 50), (_OTHER, -30)]
    assert applied.accepted.tolist() == [0, 1]


def test_last_orders_are_remembered_and_the_oldest_is_forgotten() -> None:
    state = state_after(*(Said(TOTAL, 10, order=n) for n in range(1, ORDERS_LEN + 2)))
    _, kept = state.orders.take(np.array([0]))
    assert kept["order"].tolist() == [list(range(2, ORDERS_LEN + 2))]
    # Nothing is known of the forgotten order any more, so its refund is taken at its word.
    state.apply(batch([Said(REFUND, 99, order=1), Said(REFUND, 99, order=3)], 100))
    assert came_to(state)[1] == 10 * (ORDERS_LEN + 1) - 99 - 10


def test_erased_user_leaves_no_order() -> None:
    state = state_after(Said(TOTAL, 10))
    state.erase(Erasure("ann", START + 1, 50))
    state.apply(batch([Said(REFUND, 10)], 100))
    assert came_to(state)[:2] == (0, -10)


def test_a_sender_who_adds_without_end_breaks_nothing() -> None:
    state = PartitionState(DAY_S)
    limit = 10**13
    state.orders.put(
        np.array(state.rows_of(["ann"])), np.array([0]), np.array([(1, 2**61, 2**61, 1, 0)], state.orders.items.dtype)
    )
    state.apply(batch([Said(LINE, limit), Said(REFUND, limit), Said(LINE, limit)]))
    assert state.orders.items[0, 0].item() == (1, 2**61, 2**61, 1, 0)


# Against a plain reference -------------------------------------------------------------------------------


class Plain:
    """One user's orders, as a person would keep them: what was said, and what is kept of each order now."""

    def __init__(self) -> None:
        self.orders: dict[int, dict[str, Any]] = {}
        self.counted: list[tuple[int, int]] = []

    def say(self, one: Said) -> None:
        new = {"paid": None, "all": False, "back": 0, "cancelled": False}
        order = dict(self.orders.get(one.order, new))
        before = self.kept(order)
        gives_back = one.change in (REFUND, CANCEL)
        if gives_back and ((order["paid"] and not before) or (one.change == CANCEL and order["cancelled"])):
            return
        if one.change == TOTAL and order["all"]:
            return
        kind = _REFUND if gives_back else _PURCHASE if order["paid"] is None else _OTHER
        if one.change == REFUND:
            order["back"] += one.amount
        elif one.change == CANCEL:
            order["cancelled"] = True
        elif one.change == LINE:
            order["paid"] = (order["paid"] or 0) + (0 if order["all"] else one.amount)
        else:
            order["paid"], order["all"] = one.amount, True
        self.orders[one.order] = order
        while len(self.orders) > ORDERS_LEN:
            self.orders.pop(next(iter(self.orders)))
        self.counted.append((kind, self.kept(order) - before))

    @staticmethod
    def kept(order: dict[str, Any]) -> int:
        if order["paid"] is None:
            return -int(order["back"])
        return 0 if order["cancelled"] else max(0, int(order["paid"]) - int(order["back"]))


SAID = st.builds(
    Said,
    change=st.sampled_from(OrderChange),
    amount=st.integers(0, 9) | st.integers(0, 10**13),
    order=st.integers(1, 3) | st.integers(1, ORDERS_LEN + 3),
    user=st.sampled_from(["ann", "bob"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(SAID, max_size=40), st.data())
def test_any_events_in_any_fetches_come_to_what_a_plain_reference_says(said: list[Said], data: st.DataObject) -> None:
    said = [Said(s.change, s.amount if s.change != CANCEL else 0, s.order, s.user, 1 + i) for i, s in enumerate(said)]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(said)), max_size=6)) | {0, len(said)})
    state, plain = PartitionState(DAY_S, "USD"), {user: Plain() for user in ("ann", "bob")}
    for first, end in itertools.pairwise(cuts):
        state.apply(batch(said[first:end], first))
        if data.draw(st.booleans()):
            # A worker that is started anew reads the same orders from its changelog.
            restarted = PartitionState(DAY_S, "USD")
            changelog.load(restarted, state.ids, changelog.pack(state, np.arange(len(state))))
            restarted.watermark, state = state.watermark, restarted
    for one in said:
        plain[one.user].say(one)
    for user, expected in plain.items():
        orders, revenue, history = came_to(state, user)
        assert history == expected.counted[-HISTORY_LEN:]
        assert revenue == sum(value for _, value in expected.counted)
        assert orders == sum(kind == _PURCHASE for kind, _ in expected.counted)
        snapshot = state.snapshot(state.rows_of([user]))
        in_30_days = windows(snapshot, np.array([START + len(said)]))[1][0, -1]
        assert in_30_days == revenue or not expected.counted


@settings(max_examples=200, deadline=None)
@given(st.lists(SAID, max_size=30))
def test_nothing_is_given_back_that_was_not_paid(said: list[Said]) -> None:
    """Where every order begins with what was paid, revenue is never below zero, nor above all that was said paid."""
    begun = [Said(TOTAL, 10, order=n, identity=n) for n in range(1, 5)]
    rest = [Said(s.change, s.amount, 1 + s.order % 4, "ann", 10 + i) for i, s in enumerate(said) if s.change != LINE]
    _, revenue, _ = came_to(state_after(*begun, *rest))
    highest = {n: max([10, *(s.amount for s in rest if s.order == n and s.change == UPDATE)]) for n in range(1, 5)}
    assert 0 <= revenue <= sum(highest.values())
