"""Decode, for every envelope preset: good events arrive unchanged, and nothing raises."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.events import EVENT, EventType
from stream.decode.decoder import REVIEW_CHARS_MAX, Decoded, Decoder, Money, hash_bucket
from stream.decode.names import HashBuckets
from stream.decode.placeholders import Placeholders
from stream.errors import ConfigError
from stream.state.erasure import COMMAND_HEADER, ERASE, Erasure
from tests.decode.makers import (
    BROKEN,
    BYTES_MAX,
    ISO,
    MAKERS,
    NOW,
    REASONS,
    SKEW_S,
    TIME,
    Make,
    Record,
    decode,
    decoder,
    row,
)

ERASE_HEADERS = ((COMMAND_HEADER, ERASE),)

# Good events -----------------------------------------------------------------------------------------


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"envelope is 'json', expected one of segment, flat, .* shop.toml; set --envelope"
    ):
        decoder("json")


def test_good_event_decodes_to_its_row(preset: str, make: Make) -> None:
    event = make(kind="purchase", user="ann", event_id="e1", order_id="o1", item="p1", category="shoes", amount=12.34)
    out = decode(preset, event)
    assert (out.batch.users, out.dead, out.n_ignored) == (["ann"], [], 0)
    assert out.batch.rows.dtype == EVENT
    found = out.batch.rows[0]
    assert (found["offset"], found["time"], found["value"], found["type"]) == (100, TIME, 1_234, EventType.PURCHASE)
    assert found["item"] == 1 + xxhash.xxh3_64_intdigest(b"p1") % 65_535
    assert found["category"] == 1 + xxhash.xxh3_64_intdigest(b"shoes") % 65_535
    assert found["identity"] != 0


def test_event_with_only_the_required_fields_is_good(preset: str, make: Make) -> None:
    event = {k: v for k, v in make().items() if k not in ("messageId", "event_id", "properties")}
    found = row(preset, event)
    assert (found["value"], found["category"], found["item"]) == (0, 0, 0)


def test_whole_batch_keeps_the_order_of_its_records(preset: str, make: Make) -> None:
    events = [make(user=f"u{i % 3}", event_id=f"e{i}", time=TIME - i) for i in range(50)]
    out = decode(preset, *events)
    assert out.batch.rows["offset"].tolist() == list(range(100, 150))
    assert out.batch.users == [f"u{i % 3}" for i in range(50)]
    assert [r.offset for r in out.records] == list(range(100, 150))
    assert out.batch.rows["time"].tolist() == [TIME - i for i in range(50)]


def test_empty_fetch_decodes_to_an_empty_batch(preset: str) -> None:
    out = decode(preset)
    assert (len(out.batch), len(out.batch.rows), out.dead, out.records) == (0, 0, [], [])


# Identity --------------------------------------------------------------------------------------------


def identities(preset: str, *events: dict[str, Any]) -> list[int]:
    out = decode(preset, *events)
    assert out.dead == []
    return out.batch.rows["identity"].tolist()


def test_purchases_of_one_order_have_one_identity_with_any_event_ids(preset: str, make: Make) -> None:
    first, again = identities(
        preset, *(make(kind="purchase", order_id="o1", event_id=e, amount=5) for e in ("e1", "e2"))
    )
    assert first == again


def test_only_purchases_take_their_identity_from_the_order(preset: str, make: Make) -> None:
    refunds = identities(preset, *(make(kind="refund", order_id="o1", event_id=e) for e in ("e1", "e2")))
    assert len(set(refunds)) == 2
    view, purchase = identities(preset, make(order_id="o1"), make(kind="purchase", order_id="o1"))
    assert view != purchase


def test_order_and_event_of_the_same_number_have_two_identities(preset: str, make: Make) -> None:
    view, purchase = identities(preset, make(event_id=17), make(kind="purchase", event_id=18, order_id=17))
    assert view != purchase


def test_event_id_gives_the_same_identity_as_text_and_as_number(preset: str, make: Make) -> None:
    text, number, other = identities(preset, make(event_id="7"), make(event_id=7), make(event_id="8"))
    assert text == number != other


@pytest.mark.parametrize("absent", [None, ""])
def test_events_without_an_id_have_own_identities_that_stay_when_read_again(
    preset: str, make: Make, absent: str | None
) -> None:
    event = make(kind="purchase", event_id=absent, order_id=absent)
    first, second = identities(preset, event, event)
    assert first != second
    assert identities(preset, event, event) == [first, second]


def test_empty_order_id_gives_no_identity(preset: str, make: Make) -> None:
    first, second = identities(
        preset, *(make(kind="purchase", order_id="", event_id=e, amount=5) for e in ("e1", "e2"))
    )
    assert first != second


def test_event_without_an_id_keeps_its_identity_when_replayed() -> None:
    """A replay has another offset, and says in a header where the event stood originally."""
    value = json.dumps({"type": "track", "event": "Product Viewed", "userId": "u", "timestamp": 1_700_000_000}).encode()
    decoder = Decoder("segment", Money("USD"), bytes_max=BYTES_MAX, future_skew_s=SKEW_S)

    def identity(offset: int, *headers: tuple[str, bytes | None]) -> int:
        record = SimpleNamespace(offset=offset, value=value, headers=headers)
        return int(decoder.decode([record], NOW).batch.rows["identity"][0])

    replayed = ("valuestream.origin", b"events/1/7")
    assert identity(90, replayed) == identity(91, replayed)
    assert identity(90, replayed) != identity(90, ("valuestream.origin", b"events/1/8"))
    assert identity(90) != identity(91)


# Bad records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_record_is_a_dead_letter_that_says_why(preset: str, kind: str) -> None:
    value, why, says = BROKEN[kind]
    (dead,) = decode(preset, value).dead
    assert (dead.reason, dead.stage) == (why, "decode")
    assert says in dead.message
    assert dead.record == Record(100, value)


#: What is neither text nor a number.
WRONG = [["x"], {"x": 1}, True]


@pytest.mark.parametrize(
    "field", ["event_id", "order_id", "item", "category", "amount", "currency", "quantity", "products"]
)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_type_of_what_a_view_can_do_without_is_ignored_and_counted(
    preset: str, make: Make, field: str, wrong: Any
) -> None:
    good, bad = make(event_id="e"), make(**{"event_id": "e", field: wrong})
    if field == "order_id":
        bad["order_id"] = wrong
    out = decode(preset, bad)
    known_here = field != "products" or preset == "segment"
    names = {"amount": "price"}
    if known_here and not (field == "products" and isinstance(wrong, dict)):
        assert out.fields_ignored == {names.get(field, field): 1} or field == "order_id"
    found, expected = out.batch.rows[0], row(preset, good)
    kept = [name for name in EVENT.names or () if name != "identity" or field != "event_id"]
    assert (out.batch.users, found[kept], out.dead) == (["u"], expected[kept], [])


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("kind", ["purchase", "refund"])
def test_wrong_type_of_an_amount_is_a_dead_letter_of_its_order(preset: str, make: Make, kind: str, wrong: Any) -> None:
    (dead,) = decode(preset, make(kind=kind, amount=wrong)).dead
    assert dead.reason == "amount"
    assert re.fullmatch("amount is (a list|an object|True), expected a number; mend the sender", dead.message)
    (dead,) = decode(preset, make(kind=kind, amount=5, currency=wrong)).dead
    assert dead.reason == "currency"
    assert dead.message.endswith("expected 'USD' or one with a rate; set --fx-rates")


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_type_of_who_when_or_what_is_a_dead_letter(preset: str, make: Make, wrong: Any) -> None:
    values = [make(user=wrong), make(time=wrong), {**make(), "event" if preset == "segment" else "type": wrong}]
    assert [dead.reason for dead in decode(preset, *values).dead] == ["user", "timestamp", "schema"]


def test_record_cut_at_any_byte_is_a_dead_letter(preset: str, make: Make) -> None:
    whole = json.dumps(make(kind="purchase", amount=12.5, order_id="o1")).encode()
    out = decode(preset, *(whole[:end] for end in range(len(whole))), whole)
    assert {d.reason for d in out.dead} == {"malformed"}
    assert len(out.dead) == len(whole)
    assert len(out.batch) == 1


def test_unknown_fields_are_ignored_also_when_there_are_thousands(preset: str, make: Make) -> None:
    event = {**make(kind="purchase", amount=1), **{f"k{i}": i for i in range(6_000)}}
    many = Decoder(preset, Money("USD"), bytes_max=10**6, future_skew_s=SKEW_S)
    many_keys = {**event, **{f"k{i}": [i, {"x": None}] for i in range(10_000)}}
    out = many.decode([Record(0, json.dumps(e).encode()) for e in (event, many_keys)], NOW)
    assert (out.dead, out.batch.rows["value"].tolist()) == ([], [100, 100])


def test_good_events_are_the_same_with_bad_ones_among_them(preset: str, make: Make) -> None:
    good = [make(kind="purchase", user=f"u{i}", event_id=f"e{i}", amount=i) for i in range(len(BROKEN))]
    alone = decode(preset, *good)
    mixed: list[Any] = [v for event, (broken, _, _) in zip(good, BROKEN.values(), strict=True) for v in (broken, event)]
    out = decode(preset, *mixed)
    names = [name for name in EVENT.names or () if name != "offset"]
    assert np.array_equal(out.batch.rows[names], alone.batch.rows[names])
    assert out.batch.users == alone.batch.users
    assert out.batch.rows["offset"].tolist() == [101 + 2 * i for i in range(len(good))]
    assert [d.record.offset for d in out.dead] == [100 + 2 * i for i in range(len(good))]
    assert [d.reason for d in out.dead] == [why for _, why, _ in BROKEN.values()]


# Anything at all -------------------------------------------------------------------------------------


NUMBERS = st.one_of(
    st.integers(),
    st.integers(300, 4_290).map(lambda digits: 10**digits),
    st.integers(300, 4_290).map(lambda digits: -(10**digits)),
    st.floats(),
    st.sampled_from([0, 1, TIME, TIME * 1000, 2**31, 2**32, 2**63, 2**64, 1e11, 1e308]),
)


TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(["", "nan", "inf", "1e308", "EUR", ISO, "x" * 300, "\0"]))


SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)


JSON = st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXTS, x, max_size=3), max_leaves=3)


FIELDS = ("user", "time", "event_id", "order_id", "item", "category", "amount", "currency", "quantity", "products")


KINDS = st.sampled_from(["purchase", "refund", "view", "?"])


def _json(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@st.composite
def almost_events(draw: st.DrawFn, preset: str) -> bytes:
    """An event with some fields replaced by anything. Sometimes it is cut, or a byte is changed."""
    fields = draw(st.dictionaries(st.sampled_from(FIELDS), st.one_of(NUMBERS, TEXTS, JSON), max_size=4))
    raw = bytearray(
        json.dumps(MAKERS[preset](kind=draw(KINDS), **fields), ensure_ascii=draw(st.booleans())).encode(
            "utf-8", "surrogatepass"
        )
    )
    if draw(st.integers(0, 4)) == 0:
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_record_is_used_or_dead_or_ignored_and_none_raises(name: str, data: st.DataObject) -> None:
    anything = st.one_of(almost_events(name), almost_events(name), st.binary(max_size=40), st.none())
    values = data.draw(st.lists(anything, max_size=4))
    out = decode(name, *values, rates={"EUR": 1.1})
    used, dead_at = {r.offset for r in out.records}, [d.record.offset for d in out.dead]
    assert len(dead_at) == len(set(dead_at))
    assert len(used.union(dead_at)) + out.n_ignored == len(values)
    assert len(out.batch.users) == len(out.batch.rows) == len(out.records)
    assert out.batch.rows["offset"].tolist() == [r.offset for r in out.records]
    assert {d.reason for d in out.dead} <= REASONS
    for dead in out.dead:
        assert dead.message.encode()
    assert_usable(out)


def assert_usable(out: Decoded) -> None:
    rows = out.batch.rows
    assert ((rows["time"] >= 1) & (rows["time"] <= NOW + SKEW_S)).all()
    assert ((rows["type"] >= 1) & (rows["type"] <= max(EventType))).all()
    assert (rows["identity"] != 0).all()
    assert (rows["value"][~np.isin(rows["type"], [EventType.PURCHASE, EventType.REFUND])] == 0).all()
    for user in out.batch.users:
        assert 1 <= len(user) <= 256
        assert user.encode().decode() == user


# Names -----------------------------------------------------------------------------------------------


def test_names_that_never_repeat_do_not_fill_memory(preset: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.decode.names._BUCKETS_MAX", 100)
    one = decoder(preset)
    for i in range(5):
        events = [make(item=f"i{i}-{j}", category="c" * 60_000 if j == 99 else j) for j in range(100)]
        out = one.decode([Record(j, json.dumps(e).encode()) for j, e in enumerate(events)], NOW)
        assert len(out.batch) == 100
    for buckets in (one._categories, one._items):
        assert len(buckets) <= 100 + len(HashBuckets(Placeholders().names))
        assert max(len(str(name)) for name in buckets) < 100


def test_decoder_knows_the_names_of_category_buckets_but_not_of_items(preset: str, make: Make) -> None:
    one = decoder(preset)
    events = [make(category="shoes", item="p1"), make(category=17), make(category=""), make(), make(category="shoes")]
    rows = one.decode([Record(i, json.dumps(e).encode()) for i, e in enumerate(events)], NOW).batch.rows
    assert one.categories == {hash_bucket("shoes"): "shoes", hash_bucket(17): "17"}
    assert rows["category"].tolist() == [hash_bucket(name) for name in ("shoes", 17, "", None, "shoes")]
    assert rows["item"].tolist() == [hash_bucket("p1"), 0, 0, 0, 0]


# Reviews ---------------------------------------------------------------------------------------------


def test_text_of_a_review_is_returned_with_the_index_of_its_event(preset: str, make: Make) -> None:
    bad, view = b"not json", make(kind="view")
    out = decode(preset, bad, make(kind="review", text=" fits well "), bad, view, make(kind="review", text="tore"))
    assert out.reviews == [(0, "fits well"), (2, "tore")]
    assert [EventType(t).name for t in out.batch.rows["type"].tolist()] == ["REVIEW", "VIEW", "REVIEW"]


@pytest.mark.parametrize("text", [None, "", "  \n", 5, 0, True, ["good"], {"body": "good"}], ids=repr)
def test_review_without_a_text_is_still_an_event(preset: str, make: Make, text: object) -> None:
    out = decode(preset, make(kind="review", text=text))
    assert (len(out.batch), out.reviews, out.dead) == (1, [], [])


@pytest.mark.parametrize("kind", ["view", "purchase", "something else"])
def test_text_of_another_event_is_not_a_review(preset: str, make: Make, kind: str) -> None:
    out = decode(preset, make(kind=kind, text="fits well"))
    assert (len(out.batch), out.reviews) == (1, [])


def test_text_of_a_dead_letter_is_not_kept(preset: str, make: Make) -> None:
    out = decode(preset, make(kind="review", text="fits well", user=None))
    assert (len(out.dead), out.reviews) == (1, [])


def test_only_the_beginning_of_a_long_review_is_kept(preset: str, make: Make) -> None:
    ((_, text),) = decode(preset, make(kind="review", text="é" * (REVIEW_CHARS_MAX + 5))).reviews
    assert text == "é" * REVIEW_CHARS_MAX


# Erasures --------------------------------------------------------------------------------------------


def erasure_record(offset: int, timestamp_ms: int, key: bytes | None, headers: Any) -> Any:
    return SimpleNamespace(offset=offset, value=None, timestamp=timestamp_ms, key=key, headers=headers)


@pytest.mark.parametrize(
    ("key", "headers", "reason"),
    [
        (b"ann", (), "null"),
        (b"ann", ((COMMAND_HEADER, b"forget"),), "null"),
        (b"ann", (("other", ERASE),), "null"),
        (None, ERASE_HEADERS, "user"),
        (b"\xff", ERASE_HEADERS, "user"),
        (b"a\0b", ERASE_HEADERS, "user"),
        (b"a" * 257, ERASE_HEADERS, "user"),
    ],
)
def test_null_that_asks_for_no_erasure_is_a_dead_letter(key: bytes | None, headers: Any, reason: str) -> None:
    decoded = decoder("flat").decode([erasure_record(0, 0, key, headers)], 1e9)
    assert decoded.erasures == []
    assert [dead.reason for dead in decoded.dead] == [reason]
    assert decoded.n_ignored == 0


@pytest.mark.parametrize(("timestamp_ms", "time"), [(-1, 0), (1_999, 1), (10**15, 1_300)])
def test_erasure_has_the_time_of_its_record_but_none_of_the_future(timestamp_ms: int, time: int) -> None:
    decoded = decoder("flat").decode([erasure_record(7, timestamp_ms, b"ann", ERASE_HEADERS)], now=1_000)
    assert decoded.erasures == [Erasure("ann", time, 7)]
