"""Repair: an event that does not fit the typed shape keeps who, when, what and how much; only the rest may be lost."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.events import EVENT, EventType
from stream.decode.decoder import Decoded, hash_bucket
from stream.state.partition_state import PartitionState
from tests.decode.makers import ALL_MAKERS, ISO, NOW, REASONS, TIME, Make, Record, decode, decoder, row, segment
from tests.decode.test_decoder import FIELDS, JSON, KINDS, NUMBERS, TEXTS

#: What each field of an event may cost it, if any JSON value stands there.
COSTS = {
    "user": {"user"},
    "time": {"timestamp", "future"},
    "amount": {"amount", "value"},
    "quantity": {"amount", "value"},
    "products": {"amount", "value"},
    "currency": {"currency"},
}


def by_force(preset: str, *values: bytes) -> Decoded:
    """Decode values the tolerant way, although their events may fit the typed shape."""
    one = decoder(preset)

    def refuse(_value: bytes) -> Any:
        raise ValueError

    one._parse = refuse
    return one.decode([Record(100 + i, value) for i, value in enumerate(values)], NOW)


def everything(out: Decoded) -> tuple[Any, ...]:
    """All that a decode says, without the words of its messages."""
    dead = [(d.record.offset, d.reason) for d in out.dead]
    rows, orders = out.batch.rows.tolist(), out.batch.orders.tolist()
    return out.batch.users, rows, orders, dead, out.n_ignored, out.reviews


# The two ways --------------------------------------------------------------------------------------------


@st.composite
def ordinary(draw: st.DrawFn, preset: str) -> dict[str, Any]:
    """An event as senders mean it: each field in a type that it may have, or absent."""
    names = st.none() | st.integers(1, 2**70) | st.text(max_size=12) | st.sampled_from(["null", "0", "", "undefined"])
    amounts = st.none() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | st.sampled_from(["", "12,50", "null"])
    times = st.integers(-5, 2**33) | st.integers(TIME * 1000 - 9, TIME * 1000) | st.floats(1, TIME) | st.just(ISO)
    fields = {
        **dict.fromkeys(["user", "event_id", "order_id", "item", "category"], names),
        **dict.fromkeys(["amount", "quantity"], amounts),
        "time": times | st.just("2024-12-30T23:06:40.5+01:00"),
        "currency": st.none() | st.sampled_from(["USD", "usd", "EUR", ""]),
        "text": st.none() | st.text(max_size=9),
    }
    chosen = draw(st.fixed_dictionaries({}, optional=fields))
    return ALL_MAKERS[preset](kind=draw(st.sampled_from(["purchase", "refund", "view", "review", "?"])), **chosen)


@pytest.mark.parametrize("name", ALL_MAKERS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_ordinary_event_gives_the_same_on_the_fast_and_on_the_tolerant_way(name: str, data: st.DataObject) -> None:
    value = json.dumps(data.draw(ordinary(name))).encode()
    assert everything(by_force(name, value)) == everything(decoder(name).decode([Record(100, value)], NOW))


# One field that is anything ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_MAKERS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_json_in_one_field_costs_at_most_that_field(name: str, data: st.DataObject) -> None:
    kind, field = data.draw(st.sampled_from(["purchase", "refund", "view"])), data.draw(st.sampled_from(FIELDS))
    anything = data.draw(st.one_of(NUMBERS, TEXTS, JSON))
    good = {"user": "ann", "time": TIME, "event_id": "e", "order_id": "o", "item": "i", "category": "c", "amount": 5}
    value = json.dumps(ALL_MAKERS[name](kind=kind, **{**good, field: anything})).encode("utf-8", "surrogatepass")
    (expected,), out = decode(name, ALL_MAKERS[name](kind=kind, **good)).batch.rows, decode(name, value)
    if out.dead:
        unpaid = {
            reason for reason in COSTS.get(field, set()) if kind != "view" or reason in ("user", "timestamp", "future")
        }
        no_json = {"malformed"} if b"NaN" in value or b"Infinity" in value or rb"\ud" in value else set()
        assert out.dead[0].reason in unpaid | no_json
        return
    (found,) = out.batch.rows
    changed = {"event_id": "identity", "order_id": "identity", "item": "item", "category": "category", "time": "time"}
    kept = [column for column in EVENT.names or () if column != changed.get(field)]
    if field == "item":
        kept.remove("identity")  # a line of an order is known by its item
    if field in ("amount", "quantity", "currency", "products"):
        # A sum below zero makes a refund of a purchase.
        kept = [column for column in kept if column not in ("value", "type", "identity", "item", "category")]
    assert found[kept] == expected[kept]
    assert field == "user" or out.batch.users == ["ann"]
    assert kind == "view" or field in COSTS or found["value"] == expected["value"]


# Shapes --------------------------------------------------------------------------------------------------

LINES = [{"product_id": "a", "price": 2, "quantity": 3}, {"sku": "b", "price": "1,50"}]
#: Products of an order that comes to 7.50, as senders write them.
PRODUCTS: dict[str, Any] = {
    "a list": LINES,
    "text": json.dumps(LINES),
    "texts": [json.dumps(line) for line in LINES],
    "an object by index": dict(enumerate(LINES)),
    "nulls among them": [None, *LINES, None, []],
    "one line as an object": {"product_id": "a", "price": {"amount": "7.50"}},
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_are_read_in_every_shape(kind: str) -> None:
    found = row("segment", segment(kind="purchase", products=PRODUCTS[kind]))
    assert (found["value"], found["item"]) == (750, hash_bucket("a"))


@pytest.mark.parametrize("products", ["two shoes", 5, True, [*LINES, "x"], [[1]], {"a": 5, "price": [1]}], ids=repr)
def test_order_whose_lines_cannot_be_read_is_refused_unless_it_says_its_total(products: Any) -> None:
    (dead,) = decode("segment", segment(kind="purchase", products=products)).dead
    assert dead.reason == "amount"
    out = decode("segment", segment(kind="purchase", products=products, amount=5))
    assert out.batch.rows["value"].tolist() == [500]
    assert sum(out.fields_ignored.values()) == 1


@pytest.mark.parametrize("properties", [[], "", None, False, {}, "{}", "[]"], ids=repr)
def test_empty_properties_are_none_in_every_shape(properties: Any) -> None:
    out = decode("segment", {**segment(), "properties": properties})
    assert (len(out.batch), dict(out.fields_ignored)) == (1, {})


def test_properties_that_cannot_be_read_cost_an_order_and_not_a_view() -> None:
    out = decode("segment", {**segment(kind="purchase"), "properties": "x"}, {**segment(), "properties": ["x"]})
    assert ([d.reason for d in out.dead], len(out.batch)) == (["amount"], 1)
    assert out.fields_ignored == {"properties": 1}


def test_call_without_a_type_is_a_track_if_it_names_an_event() -> None:
    event = segment(kind="purchase", amount=5)
    del event["type"]
    assert row("segment", event)["type"] == EventType.PURCHASE
    for kind in ("Track", " TRACK "):
        assert row("segment", {**event, "type": kind})["type"] == EventType.PURCHASE


def test_call_of_no_interest_is_ignored_whatever_it_holds() -> None:
    calls = [{"type": "identify", "userId": [1], "traits": 5}, {"type": "Group", "messageId": {}}, {"type": "alias"}]
    out = decode("segment", *calls, calls)
    assert (out.n_ignored, out.dead, len(out.batch)) == (4, [], 0)


def test_time_of_a_segment_call_follows_from_its_other_times() -> None:
    event = segment()
    del event["timestamp"]
    skewed = {"originalTimestamp": TIME - 500, "sentAt": TIME - 400, "receivedAt": "2024-12-30T23:06:40Z"}
    assert row("segment", {**event, **skewed})["time"] == TIME - 100
    assert row("segment", {**event, **skewed, "receivedAt": None})["time"] == TIME - 500
    assert row("segment", {**event, **skewed, "sentAt": "soon"})["time"] == TIME - 500
    assert row("segment", {**event, "sentAt": TIME, "receivedAt": TIME + 9})["time"] == TIME
    assert row("segment", {**event, "receivedAt": TIME})["time"] == TIME
    assert row("segment", {**event, **skewed, "timestamp": TIME - 7})["time"] == TIME - 7
    assert [d.reason for d in decode("segment", event).dead] == ["timestamp"]


# Several events in one record ----------------------------------------------------------------------------


def several(make: Make, n: int, **fields: Any) -> list[dict[str, Any]]:
    return [make(user=f"u{i}", **{"event_id": f"e{i}", **fields}) for i in range(n)]


def test_each_event_of_a_record_counts_at_the_offset_of_the_record(preset: str, make: Make) -> None:
    events = several(make, 5)
    for value in (events, {"batch": events}, "\n".join(map(json.dumps, events)).encode()):
        out = decode(preset, make(event_id="before"), value, make(event_id="after"))
        assert out.batch.users == ["u", "u0", "u1", "u2", "u3", "u4", "u"]
        assert out.batch.rows["offset"].tolist() == [100, *[101] * 5, 102]
        assert (out.dead, out.n_ignored) == ([], 0)


@settings(deadline=None)
@given(st.integers(2, 30), st.booleans(), st.sampled_from(sorted(ALL_MAKERS)))
def test_events_of_a_record_are_distinct_and_a_replay_changes_nothing(n: int, with_ids: bool, preset: str) -> None:
    events = [ALL_MAKERS[preset](user="ann", event_id=f"e{i}" if with_ids else None) for i in range(n)]
    first, again = decode(preset, events), decode(preset, events)
    assert len(set(first.batch.rows["identity"].tolist())) == n
    assert first.batch.rows.tolist() == again.batch.rows.tolist()
    state = PartitionState(lateness_s=10**6)
    assert (state.apply(first.batch).n_accepted, state.apply(again.batch).n_replayed) == (n, n)
    elsewhere = again.batch.rows.copy()
    elsewhere["offset"] += 1
    if with_ids:
        assert state.apply(type(again.batch)(again.batch.users, elsewhere)).n_duplicate == n


def test_record_with_one_bad_event_keeps_the_others_and_is_one_dead_letter(preset: str, make: Make) -> None:
    good = several(make, 4)
    out = decode(preset, [good[0], make(user=None), good[1], make(time="soon"), *good[2:]])
    assert out.batch.users == ["u0", "u1", "u2", "u3"]
    assert [(d.record.offset, d.reason) for d in out.dead] == [(100, "user")]


def test_replay_of_such_a_dead_letter_adds_only_what_was_missing(preset: str, make: Make) -> None:
    """Events without an id too: a replay says in a header where the record stood."""
    value = json.dumps(
        [make(user="ann", event_id=None), make(user="ann", event_id=None, currency="EUR", amount=1, kind="purchase")]
    )
    first = SimpleNamespace(offset=7, topic="events", partition=3, value=value.encode(), headers=())
    out = decoder(preset).decode([first], NOW)
    assert ([d.reason for d in out.dead], len(out.batch)) == (["currency"], 1)
    replayed = SimpleNamespace(**{**vars(first), "offset": 90, "headers": [("valuestream.origin", b"events/3/7")]})
    again = decoder(preset, {"EUR": 1.1}).decode([replayed], NOW)
    state = PartitionState(lateness_s=10**6)
    state.apply(out.batch)
    applied = state.apply(again.batch)
    assert (applied.n_duplicate, applied.n_accepted) == (1, 1)


def test_ignored_fields_of_a_dead_letter_are_not_counted(preset: str, make: Make) -> None:
    out = decode(preset, make(user=None, category=[]), [make(category=[1]), make(category=[1], time="soon")])
    assert (len(out.dead), out.fields_ignored) == (2, {"category": 1})


@pytest.mark.parametrize("name", ALL_MAKERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_records_of_any_events_have_one_outcome_each(name: str, data: st.DataObject) -> None:
    fields = st.dictionaries(st.sampled_from(FIELDS), st.one_of(NUMBERS, TEXTS, JSON), max_size=2)
    make = ALL_MAKERS[name]
    events = data.draw(st.lists(st.builds(lambda kind, own: make(kind=kind, **own), KINDS, fields), max_size=4))
    out = decode(name, events)
    assert max(bool(out.records), len(out.dead)) + out.n_ignored == 1
    assert len(out.records) <= len(events)
    assert {d.reason for d in out.dead} <= REASONS
