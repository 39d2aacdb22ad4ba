"""Decode under every envelope preset: good events arrive as they are, nothing whatever raises."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.events import EVENT, SEGMENT_NAMES, EventType
from stream.decode.decoder import PRESETS, REVIEW_CHARS_MAX, Decoded, Decoder, Money, hash_bucket
from stream.errors import ConfigError, EventError

NOW = 1_735_689_600.0
TIME = 1_735_600_000
ISO = "2024-12-30T23:06:40Z"
BYTES_MAX = 65_536
SKEW_S = 300.0
#: The closed set of reasons: each is a value of a metric label.
REASONS = {
    *("null", "oversized", "malformed", "schema", "too_deep", "confluent"),
    *("user", "timestamp", "future", "currency", "value"),
}


@dataclass
class Record:
    """A consumer record, as far as decoding reads it."""

    offset: int
    value: bytes | None


#: preset → an event of it, from plain words: one place to add the next preset.
Make = Callable[..., dict[str, Any]]


def segment(**words: Any) -> dict[str, Any]:
    outside = {"user": "userId", "time": "timestamp", "event_id": "messageId"}
    inside = {"item": "product_id", "amount": "total", "text": "review_body"}
    names = {
        "view": "Product Viewed",
        "purchase": "Order Completed",
        "refund": "Order Refunded",
        "cart": "Product Added",
        "review": "Product Reviewed",
    }
    kind = words.pop("kind", "view")
    event: dict[str, Any] = {"type": "track", "event": names.get(kind, kind), "properties": {}}
    for word, value in {"user": "u", "time": ISO, "event_id": "e", **words}.items():
        if word in outside:
            event[outside[word]] = value
        else:
            event["properties"][inside.get(word, word)] = value
    return event


def flat(**words: Any) -> dict[str, Any]:
    names = {"user": "user_id", "time": "ts", "item": "item_id", "amount": "price"}
    event = {"type": words.pop("kind", "view")}
    return event | {names.get(w, w): v for w, v in {"user": "u", "time": ISO, "event_id": "e", **words}.items()}


MAKERS: dict[str, Make] = {"segment": segment, "flat": flat}


@pytest.fixture(params=MAKERS)
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(preset: str) -> Make:
    return MAKERS[preset]


def decoder(preset: str, rates: dict[str, float] | None = None) -> Decoder:
    return Decoder(preset, Money("USD", rates or {}), bytes_max=BYTES_MAX, future_skew_s=SKEW_S)


def decode(preset: str, *values: Any, rates: dict[str, float] | None = None) -> Decoded:
    """Decode values (bytes, None, or what is to be JSON) at offsets 100, 101, …"""
    raw = [v if isinstance(v, bytes | None) else json.dumps(v).encode() for v in values]
    return decoder(preset, rates).decode([Record(100 + i, v) for i, v in enumerate(raw)], NOW)


def row(preset: str, value: Any, **kwargs: Any) -> Any:
    """The one row of a value that is good."""
    out = decode(preset, value, **kwargs)
    assert [d.message for d in out.dead] == []
    assert len(out.batch) == len(out.batch.rows) == 1
    return out.batch.rows[0]


def reason(preset: str, value: Any) -> str:
    """Why a value is bad."""
    out = decode(preset, value)
    assert (len(out.dead), len(out.batch)) == (1, 0), out.batch.rows
    return out.dead[0].reason


def short(value: Any) -> str:
    """Name of a parameter, as far as a line takes it."""
    return f"{value!r:.24}"


# Good events ------------------------------------------------------------------------------------------


def test_every_preset_is_tested_here() -> None:
    assert MAKERS.keys() == PRESETS.keys()


def test_unknown_preset_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"envelope is 'ga4', expected one of segment, flat; set --envelope"):
        decoder("ga4")


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


def test_event_with_nothing_but_what_it_needs_is_good(preset: str, make: Make) -> None:
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


def test_flat_names_and_their_aliases_mean_what_they_say() -> None:
    for kind in EventType:
        assert row("flat", flat(kind=kind.name.title()))["type"] == kind
    aliases = {"add_to_cart": "CART", "remove_from_cart": "UNCART", "order": "PURCHASE", "buy": "PURCHASE"}
    for alias, kind in {**aliases, "cancel": "REFUND", "favorite": "WISHLIST", "no such thing": "OTHER"}.items():
        assert row("flat", flat(kind=alias))["type"] == EventType[kind]


def test_segment_names_mean_what_the_spec_says_in_any_case() -> None:
    for name, kind in SEGMENT_NAMES.items():
        assert row("segment", segment(kind=name))["type"] == row("segment", segment(kind=name.upper()))["type"] == kind
    assert row("segment", segment(kind="Coupon Denied"))["type"] == EventType.OTHER


def test_segment_page_and_screen_are_views_and_identify_is_of_no_interest() -> None:
    calls = [{**segment(), "type": kind} for kind in ("page", "screen", "identify", "group", "alias")]
    out = decode("segment", *calls)
    assert out.batch.rows["type"].tolist() == [EventType.VIEW, EventType.VIEW]
    assert (out.n_ignored, out.dead) == (3, [])


# Identity ---------------------------------------------------------------------------------------------


def identities(preset: str, *events: dict[str, Any]) -> list[int]:
    out = decode(preset, *events)
    assert out.dead == []
    return out.batch.rows["identity"].tolist()


def test_purchases_of_one_order_are_the_same_whatever_their_event_ids(preset: str, make: Make) -> None:
    first, again = identities(
        preset, *(make(kind="purchase", order_id="o1", event_id=e, amount=5) for e in ("e1", "e2"))
    )
    assert first == again


def test_only_purchases_are_known_by_their_order(preset: str, make: Make) -> None:
    found = identities(preset, *(make(kind="refund", order_id="o1", event_id=e) for e in ("e1", "e2")))
    assert len(set(found)) == 2
    view, purchase = identities(preset, make(order_id="o1"), make(kind="purchase", order_id="o1"))
    assert view != purchase


def test_order_and_event_of_the_same_number_are_two_things(preset: str, make: Make) -> None:
    view, purchase = identities(preset, make(event_id=17), make(kind="purchase", event_id=18, order_id=17))
    assert view != purchase


def test_event_id_is_the_identity_as_text_or_number(preset: str, make: Make) -> None:
    text, number, other = identities(preset, make(event_id="7"), make(event_id=7), make(event_id="8"))
    assert text == number != other


@pytest.mark.parametrize("absent", [None, ""])
def test_events_without_an_id_are_all_different_but_the_same_when_read_again(
    preset: str, make: Make, absent: str | None
) -> None:
    event = make(kind="purchase", event_id=absent, order_id=absent)
    first, second = identities(preset, event, event)
    assert first != second
    assert identities(preset, event, event) == [first, second]


def test_empty_order_id_is_no_order(preset: str, make: Make) -> None:
    first, second = identities(
        preset, *(make(kind="purchase", order_id="", event_id=e, amount=5) for e in ("e1", "e2"))
    )
    assert first != second


def test_segment_user_is_the_anonymous_one_where_no_user_is_known() -> None:
    for known, expected in (("ann", "ann"), (0, "0"), (None, "anon"), ("", "anon")):
        assert decode("segment", {**segment(user=known), "anonymousId": "anon"}).batch.users == [expected]


# Time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "time",
    [
        *(TIME, float(TIME), TIME + 0.999, TIME * 1000, TIME * 1000 + 999, TIME * 1000.0),
        *(ISO, "2024-12-30T23:06:40", "2024-12-30 23:06:40", "2024-12-30T23:06:40.999Z"),
        *("2024-12-31T01:06:40+02:00", "2024-12-30T15:06:40-08:00"),
    ],
    ids=short,
)
def test_time_is_whole_seconds_utc_from_seconds_milliseconds_or_iso(preset: str, make: Make, time: Any) -> None:
    assert row(preset, make(time=time))["time"] == TIME


def test_time_without_a_zone_is_utc_wherever_we_run(preset: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        assert row(preset, make(time="2024-12-30T23:06:40"))["time"] == TIME
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "time",
    [
        *(None, 0, -1, 0.5, -TIME, 1e300, -1e300, 10**18, 10**320, 10**4000, -(10**4000), TIME * 1_000_000),
        *("0001-01-01T00:00:00+14:00", "1900-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "2107-01-01T00:00:00Z"),
    ],
    ids=short,
)
def test_time_that_no_shopper_ever_saw_is_a_dead_letter(preset: str, make: Make, time: Any) -> None:
    assert reason(preset, make(time=time)) == "timestamp"


@pytest.mark.parametrize("time", ["", "yesterday", "2024-02-30T00:00:00Z", "1735600000", True, [], {"$date": 1}])
def test_time_that_is_not_one_is_a_dead_letter(preset: str, make: Make, time: Any) -> None:
    assert reason(preset, make(time=time)) == "schema"


def test_time_ahead_of_our_clock_is_good_up_to_the_allowed_skew(preset: str, make: Make) -> None:
    assert row(preset, make(time=NOW + SKEW_S))["time"] == NOW + SKEW_S
    assert reason(preset, make(time=NOW + SKEW_S + 0.5)) == "future"
    out = decode(preset, make(time=NOW + SKEW_S + 60))
    assert out.dead[0].reason == "future"
    assert out.dead[0].message == "timestamp is 60 s past the allowed skew; check the sender's clock"


@pytest.mark.parametrize(
    ("time", "good"),
    [
        *(("2025-01-01T00:05:00Z", True), ("2025-01-01T00:04:59.999999Z", True), (int(NOW + SKEW_S), True)),
        *(("2025-01-01T00:05:00.000001Z", False), ("2025-01-01T00:05:01Z", False), (int(NOW + SKEW_S) + 1, False)),
        *(("2025-01-01T02:05:00+02:00", True), ("2025-01-01T02:05:00.5+02:00", False)),
    ],
    ids=short,
)
def test_bound_of_the_future_is_exact_however_the_time_is_written(
    preset: str, make: Make, time: Any, good: bool
) -> None:
    out = decode(preset, make(time=time))
    assert [d.reason for d in out.dead] == ([] if good else ["future"])


# Money ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "hundredths"),
    [(12.34, 1_234), ("12.34", 1_234), (0, 0), ("", 0), (None, 0), (-3, -300), (0.29, 29), (21_474_836.47, 2**31 - 1)],
)
def test_amount_is_kept_in_hundredths(preset: str, make: Make, amount: Any, hundredths: int) -> None:
    assert row(preset, make(kind="purchase", amount=amount))["value"] == hundredths


@pytest.mark.parametrize("amount", [5, -5, "5"])
def test_refund_is_below_zero_whatever_its_sign(preset: str, make: Make, amount: Any) -> None:
    assert row(preset, make(kind="refund", amount=amount))["value"] == -500


@pytest.mark.parametrize("amount", [5, "five", 1e308, "NaN", 10**400])
def test_what_is_only_looked_at_has_no_value_and_its_price_is_not_read(preset: str, make: Make, amount: Any) -> None:
    assert row(preset, make(kind="view", amount=amount, currency="XXX"))["value"] == 0


@pytest.mark.parametrize(
    "amount",
    [21_474_836.48, -21_474_836.48, 1e18, 1e308, -1e308, "1e308", "1e999", "NaN", "-inf", 10**310, -(10**4000)],
    ids=short,
)
def test_amount_that_cannot_be_kept_is_a_dead_letter(preset: str, make: Make, amount: Any) -> None:
    assert reason(preset, make(kind="purchase", amount=amount)) == "value"
    assert reason(preset, make(kind="refund", amount=amount, currency="USD")) == "value"


def test_other_currencies_are_converted_and_those_without_a_rate_are_dead_letters(preset: str, make: Make) -> None:
    paid = [make(kind="purchase", amount=10, currency=c) for c in ("USD", "EUR", "", None)]
    out = decode(preset, *paid, make(kind="purchase", amount=10, currency="GBP"), rates={"EUR": 1.1})
    assert out.batch.rows["value"].tolist() == [1_000, 1_100, 1_000, 1_000]
    message = "currency is 'GBP', expected 'USD' or one with a rate; set --fx-rates"
    assert [(d.reason, d.message) for d in out.dead] == [("currency", message)]


def test_rate_that_makes_too_much_of_an_amount_is_a_dead_letter_not_an_overflow() -> None:
    money = Money("USD", {"BIG": 1e300, "INF": float("inf"), "NAN": float("nan")})
    for currency in money.rates:
        with pytest.raises(EventError) as caught:
            money.hundredths(1e10, currency)
        assert caught.value.reason == "value"


@pytest.mark.parametrize(
    ("properties", "hundredths"),
    [
        ({"total": 5, "revenue": 4, "value": 3, "price": 2}, 500),
        ({"revenue": 4, "value": 3, "price": 2}, 400),
        ({"total": "", "revenue": "", "value": 3, "price": 2}, 300),
        ({"price": 2}, 200),
        ({"price": 2, "quantity": 3}, 600),
        ({"price": "2.50", "quantity": "3"}, 750),
        ({"price": 2, "quantity": 0}, 0),
        ({"price": 2, "quantity": ""}, 200),
        ({"products": [{"price": 2, "quantity": 3}, {"price": 1}, {"quantity": 9}]}, 700),
        ({"products": [], "price": 3}, 300),
        ({"products": [{"price": 2}], "total": 9}, 900),
        ({}, 0),
    ],
)
def test_segment_amount_is_total_then_revenue_then_value_then_its_lines(
    properties: dict[str, Any], hundredths: int
) -> None:
    event = {**segment(kind="Order Completed"), "properties": properties}
    assert row("segment", event)["value"] == hundredths


def test_segment_order_is_of_its_first_product_unless_it_names_one() -> None:
    products = [{"product_id": "a", "category": "x", "price": 1}, {"product_id": "b", "category": "y"}]
    first = row("segment", segment(kind="Order Completed", products=products))
    assert (first["item"], first["category"]) == tuple(
        row("segment", segment(item="a", category="x"))[["item", "category"]]
    )
    named = row("segment", segment(kind="Order Completed", products=products, item="c", category="z"))
    assert (named["item"], named["category"]) == tuple(
        row("segment", segment(item="c", category="z"))[["item", "category"]]
    )
    by_sku = row("segment", segment(sku="s"))
    assert by_sku["item"] == row("segment", segment(item="s"))["item"]


def test_flat_price_is_that_of_one_piece() -> None:
    assert row("flat", flat(kind="purchase", amount="2.50", quantity="3"))["value"] == 750


# Bad records ------------------------------------------------------------------------------------------

DEEP = b"[" * 30_000 + b"]" * 30_000
#: What a record may be instead of an event → the reason and what its message must say.
BROKEN: dict[str, tuple[bytes | None, str, str]] = {
    "null": (None, "null", "value is null, expected a JSON object"),
    "empty": (b"", "malformed", "expected one JSON object; check the producer's serializer"),
    "blank": (b"  \n", "malformed", "expected one JSON object"),
    "oversized": (b'{"x":"' + b"x" * BYTES_MAX + b'"}', "oversized", "expected at most 65536; see --event-bytes-max"),
    "too deep": (b'{"x":' + DEEP + b"}", "too_deep", "nested too deeply to read, expected a flat event"),
    "deep array": (DEEP, "schema", "Expected `object`, got `array`"),
    "not JSON": (b"user=u&type=view", "malformed", "value is not JSON"),
    "NaN": (b'{"type":"view","price":NaN}', "malformed", "value is not JSON"),
    "Infinity": (b'{"type":"view","ts":-Infinity,"timestamp":-Infinity}', "malformed", "value is not JSON"),
    "two objects": (b'{"type":"view"}{}', "malformed", "value is not JSON"),
    "byte order mark": (b'\xef\xbb\xbf{"type":"view"}', "malformed", "value is not JSON"),
    "not UTF-8": (b'{"type":"\xff\xfe"}', "malformed", "value is not JSON"),
    "UTF-16": ('{"type":"view"}'.encode("utf-16"), "malformed", "value is not JSON"),
    "lone surrogate": (rb'{"type":"\ud800"}', "malformed", "value is not JSON"),
    "surrogate bytes": (b'{"type":"\xed\xa0\x80"}', "malformed", "value is not JSON"),
    "Confluent": (b"\0\0\0\0\1{}", "confluent", "no schema registry is configured, so send JSON without"),
    "array": (b"[]", "schema", "Expected `object`, got `array`"),
    "text": (b'"view"', "schema", "Expected `object`, got `str`"),
    "JSON null": (b"null", "schema", "Expected `object`, got `null`"),
    "empty object": (b"{}", "schema", "Object missing required field `type`"),
    "number too long": (b'{"type":"view","price":1e999,"properties":{"price":1e999}}', "schema", "out of range"),
    "integer too long": (b'{"type":' + b"9" * 5_000 + b"}", "schema", "`$.type`"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_record_is_a_dead_letter_that_says_why(preset: str, kind: str) -> None:
    value, why, says = BROKEN[kind]
    (dead,) = decode(preset, value).dead
    assert (dead.reason, dead.stage) == (why, "decode")
    assert says in dead.message
    assert dead.record == Record(100, value)


@pytest.mark.parametrize("word", ["user", "event_id", "order_id", "item", "category", "amount", "currency", "quantity"])
@pytest.mark.parametrize("wrong", [[], {}, True])
def test_wrong_type_is_a_dead_letter_that_names_the_field(preset: str, make: Make, word: str, wrong: Any) -> None:
    (dead,) = decode(preset, make(**{word: wrong})).dead
    assert dead.reason == "schema"
    assert dead.message.startswith("Expected `")
    field = next(k for k, v in {**make(**{word: "?"}), **make(**{word: "?"}).get("properties", {})}.items() if v == "?")
    assert f".{field}`" in dead.message


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (None, "user id is missing, expected a string or a number"),
        ("", "user id is missing, expected a string or a number"),
        ("x" * 257, "user id has 257 characters, expected at most 256"),
        (10**4000, "user id has 4001 characters, expected at most 256"),
        ("a\0b", "user id holds a NUL, expected text"),
    ],
    ids=short,
)
def test_unusable_user_id_is_a_dead_letter_that_says_so(preset: str, make: Make, user: Any, message: str) -> None:
    (dead,) = decode(preset, make(user=user)).dead
    assert (dead.reason, dead.message) == ("user", message)


def test_user_id_may_be_any_other_text_or_number(preset: str, make: Make) -> None:
    users = ["x" * 256, "😀", "ann@example.org", " ", 0, -1, 10**30]
    out = decode(preset, *(make(user=user, event_id=i) for i, user in enumerate(users)))
    assert out.batch.users == [str(user) for user in users]


def test_amount_that_is_no_number_is_a_dead_letter_that_quotes_no_more_than_its_beginning(
    preset: str, make: Make
) -> None:
    (dead,) = decode(preset, make(kind="purchase", amount="12,50 " + "x" * 10_000)).dead
    assert dead.reason == "schema"
    assert dead.message.startswith("amount is '12,50 xxx")
    assert dead.message.endswith(", expected a number")
    assert len(dead.message) < 100


def test_truncated_record_is_a_dead_letter_wherever_it_ends(preset: str, make: Make) -> None:
    whole = json.dumps(make(kind="purchase", amount=12.5, order_id="o1")).encode()
    out = decode(preset, *(whole[:end] for end in range(len(whole))), whole)
    assert {d.reason for d in out.dead} == {"malformed"}
    assert len(out.dead) == len(whole)
    assert len(out.batch) == 1


def test_unknown_fields_are_of_no_concern_however_many(preset: str, make: Make) -> None:
    event = {**make(kind="purchase", amount=1), **{f"k{i}": i for i in range(6_000)}}
    many = Decoder(preset, Money("USD"), bytes_max=10**6, future_skew_s=SKEW_S)
    many_keys = {**event, **{f"k{i}": [i, {"x": None}] for i in range(10_000)}}
    out = many.decode([Record(0, json.dumps(e).encode()) for e in (event, many_keys)], NOW)
    assert (out.dead, out.batch.rows["value"].tolist()) == ([], [100, 100])


def test_good_events_do_not_notice_the_bad_ones_among_them(preset: str, make: Make) -> None:
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


# Anything at all --------------------------------------------------------------------------------------

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
WORDS = ("user", "time", "event_id", "order_id", "item", "category", "amount", "currency", "quantity", "products")
KINDS = st.sampled_from(["purchase", "refund", "view", "?"])


def _json(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@st.composite
def almost_events(draw: st.DrawFn, preset: str) -> bytes:
    """An event with some fields replaced by anything, sometimes cut or with a byte changed."""
    words = draw(st.dictionaries(st.sampled_from(WORDS), st.one_of(NUMBERS, TEXTS, JSON), max_size=4))
    raw = bytearray(
        json.dumps(MAKERS[preset](kind=draw(KINDS), **words), ensure_ascii=draw(st.booleans())).encode(
            "utf-8", "surrogatepass"
        )
    )
    if draw(st.integers(0, 4)) == 0:
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 9)) == 0 else raw)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_record_is_used_or_dead_or_ignored_and_none_raises(name: str, data: st.DataObject) -> None:
    anything = st.one_of(almost_events(name), almost_events(name), st.binary(max_size=40), st.none())
    values = data.draw(st.lists(anything, max_size=4))
    out = decode(name, *values, rates={"EUR": 1.1})
    assert len(out.records) + len(out.dead) + out.n_ignored == len(values)
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


def test_names_that_never_repeat_do_not_fill_memory(preset: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.decode.names._BUCKETS_MAX", 100)
    one = decoder(preset)
    for i in range(5):
        events = [make(item=f"i{i}-{j}", category="c" * 60_000 if j == 99 else j) for j in range(100)]
        out = one.decode([Record(j, json.dumps(e).encode()) for j, e in enumerate(events)], NOW)
        assert len(out.batch) == 100
    for buckets in (one._categories, one._items):
        assert len(buckets) <= 100
        assert max(len(str(name)) for name in buckets) < 100


def test_names_of_the_categories_met_are_told_by_their_bucket_and_no_items(preset: str, make: Make) -> None:
    one = decoder(preset)
    events = [make(category="shoes", item="p1"), make(category=17), make(category=""), make(), make(category="shoes")]
    rows = one.decode([Record(i, json.dumps(e).encode()) for i, e in enumerate(events)], NOW).batch.rows
    assert one.categories == {hash_bucket("shoes"): "shoes", hash_bucket(17): "17"}
    assert rows["category"].tolist() == [hash_bucket(name) for name in ("shoes", 17, "", None, "shoes")]
    assert rows["item"].tolist() == [hash_bucket("p1"), 0, 0, 0, 0]


# Reviews ----------------------------------------------------------------------------------------------


def test_text_of_a_review_comes_beside_its_event(preset: str, make: Make) -> None:
    bad, view = b"not json", make(kind="view")
    out = decode(preset, bad, make(kind="review", text=" fits well "), bad, view, make(kind="review", text="tore"))
    assert out.reviews == [(0, "fits well"), (2, "tore")]
    assert [EventType(t).name for t in out.batch.rows["type"].tolist()] == ["REVIEW", "VIEW", "REVIEW"]


@pytest.mark.parametrize("text", [None, "", "  \n", 5, 0, True, ["good"], {"body": "good"}], ids=repr)
def test_review_without_a_text_is_still_an_event(preset: str, make: Make, text: object) -> None:
    out = decode(preset, make(kind="review", text=text))
    assert (len(out.batch), out.reviews, out.dead) == (1, [], [])


@pytest.mark.parametrize("kind", ["view", "purchase", "something else"])
def test_text_of_another_event_is_no_review(preset: str, make: Make, kind: str) -> None:
    out = decode(preset, make(kind=kind, text="fits well"))
    assert (len(out.batch), out.reviews) == (1, [])


def test_text_of_a_dead_letter_is_not_kept(preset: str, make: Make) -> None:
    out = decode(preset, make(kind="review", text="fits well", user=None))
    assert (len(out.dead), out.reviews) == (1, [])


def test_of_a_long_review_the_beginning_is_kept(preset: str, make: Make) -> None:
    ((_, text),) = decode(preset, make(kind="review", text="é" * (REVIEW_CHARS_MAX + 5))).reviews
    assert text == "é" * REVIEW_CHARS_MAX


def test_event_without_an_id_is_the_same_however_often_it_is_replayed() -> None:
    """A replay has another offset, and says in a header where the event was at first."""
    value = json.dumps({"type": "track", "event": "Product Viewed", "userId": "u", "timestamp": 1_700_000_000}).encode()
    decoder = Decoder("segment", Money("USD"), bytes_max=BYTES_MAX, future_skew_s=SKEW_S)

    def identity(offset: int, *headers: tuple[str, bytes | None]) -> int:
        record = SimpleNamespace(offset=offset, value=value, headers=headers)
        return int(decoder.decode([record], NOW).batch.rows["identity"][0])

    replayed = ("valuestream.origin", b"events/1/7")
    assert identity(90, replayed) == identity(91, replayed)
    assert identity(90, replayed) != identity(90, ("valuestream.origin", b"events/1/8"))
    assert identity(90) != identity(91)
