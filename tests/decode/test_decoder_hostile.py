"""Hostile input to decode, case by case and at random. It costs its sender an event and harms nobody else."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.contract.events import EventType
from stream.decode.decoder import DeadLetter, hash_bucket
from stream.state.erasure import COMMAND_HEADER, ERASE, Marker, read_marker
from tests.decode.makers import BROKEN, MAKERS, NOW, TIME, Make
from tests.fuzz import promises
from tests.fuzz.promises import Record, check_dead_letter, check_decode, decoder

MIB = 1024 * 1024
_HOLE = "@hole@"


def with_raw(make: Make, raw: bytes, *fields: str, **others: Any) -> bytes:
    """An event in which these fields have ``raw`` as their JSON text. It need not be JSON."""
    event = json.dumps(make(**{"kind": "purchase", "amount": 5, **others, **dict.fromkeys(fields, _HOLE)}))
    return event.encode().replace(json.dumps(_HOLE).encode(), raw)


def outcomes(preset: str, values: Iterable[bytes], *, bytes_max: int = promises.BYTES_MAX) -> list[str]:
    """The outcome of each of these values, alone and among good events."""
    one, values = decoder(preset, bytes_max), list(values)
    check_decode(preset, values, one=one)
    return [promises.outcome(one, value) for value in values]


def outcome(preset: str, value: bytes, *, bytes_max: int = promises.BYTES_MAX) -> str:
    """The outcome of a value, alone and among good events."""
    (only,) = outcomes(preset, [value], bytes_max=bytes_max)
    return only


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most memory that Python held at once for this work, without what it held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Bombs ------------------------------------------------------------------------------------------------

DEPTH = 1_000_000
BOMBS = {
    "arrays": b"[" * DEPTH + b"]" * DEPTH,
    "arrays that never end": b"[" * DEPTH,
    "objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "objects that never end": b'{"a":' * DEPTH,
    "both": b'[{"a":' * DEPTH + b"1" + b"}]" * DEPTH,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_nested_a_million_deep_is_a_dead_letter(preset: str, make: Make, bomb: str) -> None:
    for field in ("text", "unknown", "item", "quantity"):
        value = with_raw(make, BOMBS[bomb], field)
        one = decoder(preset)
        assert promises.outcome(one, value) == "oversized"
        # With a larger bound it is parsed, and the depth is refused.
        assert outcome(preset, value, bytes_max=64 * MIB) == "too_deep"


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_that_is_the_whole_value_is_a_dead_letter(preset: str, bomb: str) -> None:
    assert outcome(preset, BOMBS[bomb], bytes_max=64 * MIB) == "too_deep"


def test_100_mb_string_is_refused_before_a_byte_of_it_is_parsed(preset: str, make: Make) -> None:
    value, one = with_raw(make, b'"' + b"x" * 100_000_000 + b'"', "text"), decoder(preset)
    records = [Record(value, i) for i in range(50)]
    out = []
    assert peak_bytes(lambda: out.append(one.decode(records, NOW))) < MIB
    assert [d.reason for d in out[0].dead] == ["oversized"] * 50
    # Its dead letter holds only the beginning.
    made = []
    assert peak_bytes(lambda: made.append(check_dead_letter(out[0].dead[0]))) < 8 * MIB
    assert len(made[0].value) < MIB


#: Values that take far more memory than bytes: as a text, as a field that is not read, as the lines of an order.
BLOATED = {
    "empty lists": b"[" + b"[]," * 80_000 + b"[]]",
    "empty objects": b"[" + b"{}," * 80_000 + b"{}]",
    "distinct keys": b"{" + b",".join(b'"%05d":{}' % i for i in range(22_000)) + b"}",
    "numbers": b"[" + b"9999," * 45_000 + b"1]",
    "escapes": b'"' + rb"\ud83d\ude00" * 19_000 + b'"',
}


@pytest.mark.parametrize("kind", BLOATED)
def test_fetch_of_bloated_events_takes_the_memory_of_one_event(preset: str, make: Make, kind: str) -> None:
    one = decoder(preset, bytes_max=262_144)
    for field in ("text", "unknown", "products"):
        value = with_raw(make, BLOATED[kind], field, kind="review")
        assert 200_000 < len(value) <= 262_144
        # 80,000 empty lines of an order are 60 times as large in memory as in bytes. The other fields are not read.
        bound = (80 if field == "products" else 5) * len(value)
        assert peak_bytes(lambda value=value: one.decode([Record(value)], NOW)) < bound
        records = [Record(value, i) for i in range(5)]
        assert peak_bytes(lambda records=records: one.decode(records, NOW)) < 2 * bound


@pytest.mark.parametrize("field", ["user", "event_id", "order_id", "item", "category", "amount", "currency", "kind"])
def test_message_about_a_huge_field_quotes_only_its_beginning(preset: str, make: Make, field: str) -> None:
    text = json.dumps("\x7f" * 60_000).encode()
    value = with_raw(make, text, field)
    one = decoder(preset, bytes_max=10**6)
    out = one.decode([Record(value)], NOW)
    assert len(out.dead) + len(out.records) == 1
    assert all(len(dead.message) < 300 for dead in out.dead)
    check_decode(preset, [value], one=one)


def test_names_are_remembered_by_text_only(preset: str, make: Make) -> None:
    # hash(k * (2**61 - 1)) is 0 for every k. In a dict with 100,000 such keys each look-up walks through all of them
    # and is 200 times as slow as usual. Hashes of text have a secret seed.
    one = decoder(preset)
    numbers = [k * (2**61 - 1) for k in range(1, 50)]
    records = [Record(json.dumps(make(item=k, category=k + 1)).encode(), i) for i, k in enumerate(numbers)]
    out = one.decode(records, NOW)
    assert out.batch.rows["item"].tolist() == [hash_bucket(k) for k in numbers]
    for buckets in (one._items, one._categories):
        named = {name for name, bucket in buckets.items() if bucket}
        assert {type(name) for name in named} == {str}
        assert len(named) == len(numbers)


# Numbers ----------------------------------------------------------------------------------------------

HUGE = b"1" + b"0" * 5_000
#: The fields that are read in events of every kind.
FIELDS = ("user", "time", "event_id", "order_id", "item", "category", "amount", "quantity", "currency", "kind")
TEXTS = tuple(field for field in FIELDS if field != "time")


@pytest.mark.parametrize(
    "raw", [b"NaN", b"Infinity", b"-Infinity", b"nan", b"0x10", b"1e", b"+1", b"01", b".5", b"1_0"]
)
def test_number_that_is_no_json_is_a_dead_letter_in_any_field(preset: str, make: Make, raw: bytes) -> None:
    values = [with_raw(make, raw, field) for field in (*FIELDS, "text", "unknown")]
    assert set(outcomes(preset, values)) <= {"malformed", "schema"}


@pytest.mark.parametrize("raw", [b"1e999", b"-1e999", HUGE, b"-" + HUGE, HUGE + b"e5000", b"1e" + HUGE], ids=len)
def test_number_out_of_every_range_is_a_dead_letter_where_it_matters(preset: str, make: Make, raw: bytes) -> None:
    expected = {"user": "user", "time": "timestamp", "kind": "schema", "currency": "currency"}
    expected |= dict.fromkeys(["amount", "quantity"], "value")
    found = dict(zip(FIELDS, outcomes(preset, [with_raw(make, raw, field) for field in FIELDS]), strict=True))
    if preset == "segment":
        del expected["quantity"]  # The order has a total.
    assert found == {field: expected.get(field, "event") for field in FIELDS}
    assert outcomes(preset, [with_raw(make, raw, field) for field in ("text", "unknown")]) == ["event", "event"]


@pytest.mark.parametrize("raw", [b"1e-999", b"-0", b"-0.0", b"0." + b"0" * 9_000 + b"1", b'"1e-999"'], ids=len)
def test_amount_too_small_for_a_float_is_zero(preset: str, make: Make, raw: bytes) -> None:
    out = decoder(preset).decode([Record(with_raw(make, raw, "amount"))], NOW)
    assert out.batch.rows["value"].tolist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        "nan",
        "-nan",
        "inf",
        "-Infinity",
        "1e999",
        "9" * 60_000,
        "1_" * 9_000 + "1",
        "0x10",
        "١e٩٩٩",
        "\ud7ff",
        "⅓",
    ],
    ids=lambda text: text[:8],
)
def test_text_that_is_no_amount_is_a_dead_letter(preset: str, make: Make, text: str) -> None:
    value = with_raw(make, json.dumps(text).encode(), "amount")
    assert outcome(preset, value) == "amount"


def test_true_is_neither_a_number_nor_a_text_and_false_is_none(preset: str, make: Make) -> None:
    strict = {"user": "user", "time": "timestamp", "kind": "schema"}
    of_orders = {"amount": "amount", "currency": "currency", "quantity": "amount" if preset == "flat" else "event"}
    for raw, expected in ((b"true", {**strict, **of_orders}), (b"false", strict)):
        found = outcomes(preset, [with_raw(make, raw, field) for field in FIELDS])
        assert dict(zip(FIELDS, found, strict=True)) == {field: expected.get(field, "event") for field in FIELDS}


# Text -------------------------------------------------------------------------------------------------

LONE = [rb"\ud800", rb"\udc00", rb"\udfff\udbff", rb"\ud800x", rb"\ud800\u0041", rb"\uD83D \uDE00", b"\xed\xa0\x80"]


@pytest.mark.parametrize("raw", LONE, ids=repr)
def test_lone_surrogate_is_a_dead_letter_in_any_field_that_is_read(preset: str, make: Make, raw: bytes) -> None:
    values = [with_raw(make, b'"a' + raw + b'"', field) for field in TEXTS]
    assert set(outcomes(preset, values)) == {"malformed"}


@pytest.mark.parametrize("raw", LONE, ids=repr)
def test_lone_surrogate_in_a_review_is_never_passed_on(preset: str, make: Make, raw: bytes) -> None:
    value = with_raw(make, b'"a' + raw + b'"', "text", kind="review")
    assert outcome(preset, value) == ("event" if raw == b"\xed\xa0\x80" else "malformed")
    assert decoder(preset).decode([Record(value)], NOW).reviews == []


def test_surrogate_pair_is_one_character(preset: str, make: Make) -> None:
    out = decoder(preset).decode([Record(with_raw(make, rb'"\ud83d\ude00"', "user"))], NOW)
    assert out.batch.users == ["😀"]


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe2\x82"], ids=repr)
def test_text_that_is_not_utf_8_is_a_dead_letter_in_any_field_that_is_read(preset: str, make: Make, raw: bytes) -> None:
    assert set(outcomes(preset, [with_raw(make, b'"a' + raw + b'"', field) for field in TEXTS])) == {"malformed"}
    review = with_raw(make, b'"a' + raw + b'"', "text", kind="review")
    assert outcome(preset, review) == "event"
    assert decoder(preset).decode([Record(review)], NOW).reviews == []


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff", b"\x0b", b"\xc2\xa0", b"\xef\xbb\xbf" * 2], ids=repr)
def test_byte_before_the_object_that_is_no_byte_order_mark_is_malformed(preset: str, make: Make, mark: bytes) -> None:
    assert outcome(preset, mark + json.dumps(make()).encode()) == "malformed"


#: User id as JSON text → outcome. Every later stage must be able to use an id that decode accepts, see ``check_users``.
USERS = {
    '""': "user",
    r'"\u0000"': "user",
    r'"a\u0000b"': "user",
    r'"__faust\u0000offset__"': "user",
    json.dumps("é" * 257): "user",
    json.dumps("x" * 60_000): "user",
    "9" * 4_300: "user",
    json.dumps("é" * 256): "event",
    '" "': "user",
    '"0"': "user",
    "0": "user",
    "-0": "user",
    "-1": "user",
    "1e400": "user",
    "1.5": "user",
    "true": "user",
    "[1]": "user",
    '{"id": 1}': "user",
    "-17": "event",
    "17.0": "event",
    r'"\t\n\r"': "event",
    r'"\u2028\u202e\u00a0\ufeff"': "event",
    r'"\u0001\u001b[2J\u007f"': "event",
    r'"\ud83d\ude00\uffff"': "event",
    json.dumps('"}],\\'): "event",
    json.dumps("\U0010ffff" * 256): "event",
    "9" * 256: "event",
}


@pytest.mark.parametrize("raw", USERS, ids=lambda raw: raw[:16])
def test_user_id_is_refused_or_usable_by_every_stage(preset: str, make: Make, raw: str) -> None:
    assert outcome(preset, with_raw(make, raw.encode(), "user")) == USERS[raw]


def test_control_characters_and_long_text_are_fine_in_other_fields(preset: str, make: Make) -> None:
    texts = (r"\u0000", r"\u001b[2J", " ", r"\ufeff", "x" * 50_000)
    fields = ("event_id", "order_id", "item", "category", "kind", "text")
    values = [with_raw(make, f'"{text}"'.encode(), field) for text in texts for field in fields]
    assert set(outcomes(preset, values)) == {"event"}


# Shape ------------------------------------------------------------------------------------------------


def test_last_of_repeated_keys_counts(preset: str, make: Make) -> None:
    known = json.dumps(make(user="last", kind="purchase", amount=7)).encode()
    first = json.dumps(make(user="first", kind="refund", amount=3, order_id=True)).encode()
    twice = first[:-1].replace(b"true", b"1") + b"," + known[1:]
    out = decoder(preset).decode([Record(twice)], NOW)
    assert out.batch.users == ["last"]
    assert out.batch.rows[["type", "value"]].tolist() == [(EventType.PURCHASE, 700)]
    # An earlier one may be of any type.
    assert outcome(preset, first[:-1] + b"," + known[1:]) == "event"


def test_known_keys_are_found_among_10_000_others(preset: str, make: Make) -> None:
    many = {f"key {i} ü": {"n": i} for i in range(10_000)}
    value = json.dumps({**many, **make(kind="purchase", amount=5, **{f"p{i}": i for i in range(10_000)})}).encode()
    assert outcome(preset, value, bytes_max=MIB) == "event"
    assert outcome(preset, value) == "oversized"


def test_order_of_10_000_lines_is_summed_and_one_wrong_line_is_a_dead_letter() -> None:
    lines = [{"price": 1, "quantity": 2}] * 10_000
    one = decoder("segment", MIB)
    event = MAKERS["segment"](kind="purchase", products=lines)
    assert one.decode([Record(json.dumps(event).encode())], NOW).batch.rows["value"].tolist() == [2_000_000]
    cases = {"amount": [{"price": "x"}, 5, "x"], "value": [{"price": 1e308, "quantity": 1e308}], "event": [None, {}]}
    for wrong, reason in ((wrong, reason) for reason, those in cases.items() for wrong in those):
        event = MAKERS["segment"](kind="purchase", products=[*lines, wrong])
        assert outcome("segment", json.dumps(event).encode(), bytes_max=MIB) == reason


# Clocks -----------------------------------------------------------------------------------------------

#: Event time as JSON text → outcome.
TIMES = {
    **dict.fromkeys(["-62135596800", "-1", "0", "1e308", "-1e308", "9" * 4_300, "4294967296"], "timestamp"),
    **dict.fromkeys(["-62135596800000"], "timestamp"),
    # Microseconds: the year 1978.
    "253402300799000": "event",
    **dict.fromkeys(['"0001-01-01T00:00:00Z"', '"0001-01-01T00:00:00+23:59"', '"1969-12-31T23:59:59Z"'], "timestamp"),
    **dict.fromkeys(['"9999-12-31T23:59:59Z"', '"9999-12-31T23:59:59-23:59"'], "timestamp"),
    **dict.fromkeys(['"0000-01-01T00:00:00Z"', '"10000-01-01T00:00:00Z"', '""', '"0"', '"-5"'], "timestamp"),
    **dict.fromkeys(['"9999-12-31T23:59:59.999999999Z"', '"9999-12-31 23:59:59 UTC"', '"1e9"'], "timestamp"),
    '"2016-12-31T23:59:60Z"': "event",
    **dict.fromkeys(["4294967295", "4294967295000", '"2106-02-07T06:28:15Z"'], "future"),
    # The end of the year 9999 in seconds is 1978 in milliseconds.
    **dict.fromkeys(["1", "1.999", '"1970-01-01T00:00:01Z"', str(TIME), "253402300799"], "event"),
}


@pytest.mark.parametrize("raw", TIMES, ids=lambda raw: raw[:24])
def test_impossible_event_time_is_a_dead_letter(preset: str, make: Make, raw: str) -> None:
    assert outcome(preset, with_raw(make, raw.encode(), "time")) == TIMES[raw]


@pytest.mark.parametrize("now", [-62_135_596_800.0, -1.0, 0.0, 253_402_300_799.0, 1e308, math.inf])
def test_wrong_clock_of_ours_moves_only_the_bound_of_the_future(preset: str, make: Make, now: float) -> None:
    one = decoder(preset)
    for raw, as_usual in TIMES.items():
        found = promises.outcome(one, with_raw(make, raw.encode(), "time"), now)
        assert found in (("event", "future") if as_usual in ("event", "future") else (as_usual,))
        if as_usual == "future":
            assert found == ("event" if now > 1e10 else "future")


# Headers ----------------------------------------------------------------------------------------------

HEADERS: dict[str, list[tuple[str, bytes | None]]] = {
    "100,000 of them": [(f"h{i}", b"x") for i in range(100_000)],
    "a huge one": [("h", b"x" * 20_000_000)],
    "a huge name": [("h" * 2_000_000, b"x")],
    "no values": [("a", None), ("a", None), ("", None)],
    "ours, repeated": [(f"valuestream.{n}", b"\xff") for n in ("error.reason", "attempt", "source.offset")] * 1_000,
    "ours, in other cases": [("Valuestream.Attempt", b"7"), ("valuestream.attempt ", b"7")],
    "names that are not ASCII": [("é", b"1"), ("😀" * 100, None), ("\0\n\x7f", b"")],
    "the largest attempt": [("valuestream.attempt", b"1"), ("valuestream.attempt", b"999999999")],
    "an attempt past counting": [("valuestream.attempt", b"1"), ("valuestream.attempt", b"9" * 5_000)],
    "a number of another script": [("valuestream.attempt", "٣".encode())],
}


@pytest.mark.parametrize("kind", HEADERS)
def test_dead_letter_of_a_record_with_hostile_headers_is_made_and_fits_its_topic(preset: str, kind: str) -> None:
    record = Record(b"{", headers=HEADERS[kind])
    (dead,) = decoder(preset).decode([record], NOW).dead
    made = check_dead_letter(dead)
    ours = dict(made.headers)
    assert ours["valuestream.error.reason"] == b"malformed"
    assert ours["valuestream.attempt"] == (b"1000000000" if kind == "the largest attempt" else b"1")
    if "valuestream.source.bytes" not in ours:
        foreign = [h for h in record.headers if h[0] not in ours]
        assert list(made.headers[: len(foreign)]) == foreign


def test_hostile_headers_of_a_good_event_are_ignored(preset: str, make: Make) -> None:
    value = json.dumps(make()).encode()
    for headers in HEADERS.values():
        out = decoder(preset).decode([Record(value, headers=headers)], NOW)
        assert len(out.batch) == 1


#: Key of a command to erase → outcome.
ERASED: dict[bytes | None, str] = {
    **dict.fromkeys([None, b"", b"\xff", b"a\0b", b"x" * 257, b"\xed\xa0\x80"], "user"),
    **dict.fromkeys([b" ", "é".encode() * 256, b"\x1b[2J"], "erased"),
}


@pytest.mark.parametrize("now", [NOW, -62_135_596_800.0, 1e308])
def test_command_to_erase_with_a_hostile_key_or_time_is_taken_or_a_dead_letter(preset: str, now: float) -> None:
    one, headers = decoder(preset), [(COMMAND_HEADER, None), (COMMAND_HEADER, ERASE), (COMMAND_HEADER, b"\xff")]
    for key, expected in ERASED.items():
        for timestamp in (-1, 0, 2**63 - 1, -(2**63)):
            record = Record(None, key=key, headers=headers, timestamp=timestamp)
            out = one.decode([record], now)
            assert [*(d.reason for d in out.dead), *("erased" for _ in out.erasures)] == [expected]
            for erasure in out.erasures:
                assert read_marker(Marker(erasure.time, erasure.offset).packed()).time == erasure.time
            assert (len(out.batch), out.n_ignored) == (0, 0)


# At random --------------------------------------------------------------------------------------------

#: JSON and near-JSON. The names are for reports, because some values are too long.
TOKENS = {
    **{
        repr(t): t
        for t in (b"NaN", b"-Infinity", b"1e999", b"1e308", b"-1", b"0", b"true", b"null", b"", b"\xff", b"[")
    },
    **{repr(t): t for t in (b'{"a":', rb'"\ud800"', rb'"\u0000"', b'"\xff"', b'""', b'" "', b"[[]]", b'{"a":{}}')},
    **{repr(t): t for t in (b'"9999-12-31T23:59:59-23:59"', b'"0001-01-01T00:00:00Z"', b"253402300799", b"[null]")},
    **{repr(t): t for t in (b'"EUR"', b'"BIG"', b'"XXX"', b'[{"price":1e308,"quantity":1e308}]', b"\0\0\0\0\1{}")},
    "deep lists": b"[" * 2_000 + b"]" * 2_000,
    "deep objects": b'{"a":' * 2_000,
    "long text": b'"' + b"x" * 70_000 + b'"',
    "longest integer": b"9" * 4_300,
    "huge integer": HUGE,
}
RAW = st.one_of(
    st.sampled_from(sorted(TOKENS)).map(TOKENS.__getitem__),
    st.integers().map(lambda n: str(n).encode()),
    st.floats().map(lambda x: repr(x).encode()),
    st.text(max_size=12).map(lambda t: json.dumps(t).encode()),
    st.text(max_size=12).map(lambda t: json.dumps(t, ensure_ascii=False).encode("utf-8", "replace")),
    st.binary(max_size=8),
)
FIELD_SETS = st.sets(st.sampled_from([*FIELDS, "text", "products", "unknown"]), max_size=3)
KINDS = st.sampled_from(["purchase", "refund", "view", "review", "?"])
HEADER_LISTS = st.lists(
    st.tuples(st.text(max_size=6) | st.just("valuestream.attempt"), st.none() | st.binary(max_size=9)), max_size=4
)


@st.composite
def hostile(draw: st.DrawFn, preset: str) -> bytes:
    """An event with raw tokens as fields. Sometimes bytes are inserted, or a part is replaced."""
    fields = {"kind": draw(KINDS), "amount": 5, **dict.fromkeys(draw(FIELD_SETS), _HOLE)}
    first, *rest = json.dumps(MAKERS[preset](**fields)).encode().split(json.dumps(_HOLE).encode())
    out = first + b"".join(draw(RAW) + part for part in rest)
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(out)))
        out = out[:place] + draw(RAW) + out[place + draw(st.integers(0, 3)) :]
    return out


@pytest.mark.parametrize("preset_name", MAKERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
@given(data=st.data())
def test_any_record_has_exactly_one_outcome_and_changes_no_other(preset_name: str, data: st.DataObject) -> None:
    anything = st.one_of(hostile(preset_name), hostile(preset_name), RAW, st.none())
    values = data.draw(st.lists(anything, min_size=1, max_size=4))
    check_decode(preset_name, values, data.draw(HEADER_LISTS))


@given(HEADER_LISTS, st.none() | st.binary(max_size=9), st.sampled_from([value for value, _, _ in BROKEN.values()]))
def test_dead_letter_of_any_record_fits_its_topic(headers: Any, key: bytes | None, value: bytes | None) -> None:
    check_dead_letter(DeadLetter(Record(value, key=key, headers=headers), "malformed", "message"))
