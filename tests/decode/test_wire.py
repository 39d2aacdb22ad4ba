"""Wire: the events of a record are found in whatever they were wrapped, and hostile wrappings cost little."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.decode.wire import events_of, json_of
from stream.errors import EventError

BYTES_MAX = 100_000
A, B = {"event": "a"}, {"event": "b", "price": 10**30}


def found(value: bytes) -> list[dict[str, Any]]:
    return events_of(value, BYTES_MAX)


def refused(value: bytes) -> str:
    with pytest.raises(EventError) as caught:
        found(value)
    assert len(str(caught.value)) < 400
    return caught.value.reason


#: Kind of wrapping → what it does to the JSON of an event.
WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda event: event,
    "space": lambda event: b" \n" + event + b"\r\n",
    "byte order mark": lambda event: b"\xef\xbb\xbf" + event,
    "gzip": gzip.compress,
    "Confluent": lambda event: b"\0\0\0\0\x07" + event,
    "list": lambda event: b"[" + event + b"]",
    "text": lambda event: json.dumps(event.decode()).encode(),
    "Connect": lambda event: b'{"schema":{"type":"string"},"payload":' + event + b"}",
    "Connect, of text": lambda event: json.dumps({"schema": None, "payload": event.decode()}).encode(),
    "Segment": lambda event: b'{"batch":[' + event + b'],"writeKey":"x"}',
    "line": lambda event: event + b"\n\n",
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_event_is_found_in_its_wrapping(kind: str) -> None:
    assert found(WRAPPINGS[kind](json.dumps(B).encode())) == [B]


@given(
    st.lists(st.sampled_from(sorted(WRAPPINGS.keys() - {"space", "byte order mark", "gzip", "Confluent"})), max_size=2)
)
def test_event_is_found_in_wrappings_within_each_other(kinds: list[str]) -> None:
    value = json.dumps(A).encode()
    for kind in kinds:
        value = WRAPPINGS[kind](value).strip()
    for outermost in ("none", "byte order mark", "gzip", "Confluent"):
        if outermost != "Confluent" or value[:1] in (b"{", b"["):
            assert found(WRAPPINGS[outermost](value)) == [A]


@given(st.lists(st.sampled_from([A, B, {"type": "view"}]), min_size=2, max_size=20))
def test_events_of_a_record_keep_their_order(events: list[dict[str, Any]]) -> None:
    for several in (json.dumps(events), "\n".join(map(json.dumps, events)), json.dumps({"batch": events})):
        assert found(several.encode()) == events
        assert found(gzip.compress(several.encode())) == events


def test_events_of_a_batch_know_when_it_was_sent() -> None:
    batch = {"batch": [A, {**B, "sentAt": "own"}], "sentAt": "s", "receivedAt": "r"}
    assert found(json.dumps(batch).encode()) == [
        {**A, "sentAt": "s", "receivedAt": "r"},
        {**B, "sentAt": "own", "receivedAt": "r"},
    ]


def test_property_named_batch_makes_no_event_a_batch() -> None:
    event = {"type": "view", "batch": [1, 2]}
    assert found(json.dumps(event).encode()) == [event]


#: Value → the reason for which it is refused.
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "malformed"),
    "a number": (b"5", "malformed"),
    "a list of numbers": (b"[1,2]", "malformed"),
    "an event and a number": (b'[{"event":"a"},1]', "malformed"),
    "no events": (b'{"batch":[]}', "malformed"),
    "no payload": (b'{"schema":1,"payload":null}', "malformed"),
    "a broken line": (b'{"event":"a"}\n{"event":\n', "malformed"),
    "not JSON in text": (b'"{event}"', "malformed"),
    "Avro": (b"\0\0\0\0\x07\x06ann", "confluent"),
    "Confluent without a value": (b"\0\0\0\0\x07", "malformed"),
    "six wrappings": (b"[" * 6 + b'{"event":"a"}' + b"]" * 6, "malformed"),
    "deep": (b"[" * 5_000 + b"]" * 5_000, "too_deep"),
    "deep among lines": (b'{"event":"a"}\n' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "too_deep"),
    "deep in text": (json.dumps("[" * 5_000).encode(), "too_deep"),
    "gzip cut": (gzip.compress(b'{"event":"a"}')[:-9], "malformed"),
    "gzip damaged": (b"\x1f\x8b" + b"\xff" * 50, "malformed"),
    "two gzips": (gzip.compress(b'{"event":"a"}') * 2, "malformed"),
    "gzip bomb": (gzip.compress(b"0" * 50_000_000), "oversized"),
    "half a surrogate pair": (rb'{"event":"\ud800"}', "malformed"),
    "half a surrogate pair behind a huge number": (rb'{"price":1e999,"event":"\ud800"}', "malformed"),
    "not UTF-8 behind a huge number": (b'{"price":1e999,"event":"\xff"}', "malformed"),
    "NaN behind a huge number": (b'{"price":1e999,"value":NaN}', "malformed"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_event_is_refused_with_a_reason(kind: str) -> None:
    value, reason = REFUSED[kind]
    assert refused(value) == reason


def test_gzip_bomb_is_never_unpacked_whole() -> None:
    unpacked = zlib.decompressobj(wbits=31).decompress(gzip.compress(b"{" * BYTES_MAX), BYTES_MAX + 1)
    assert len(unpacked) == BYTES_MAX
    assert refused(gzip.compress(b"{" * BYTES_MAX)) == "malformed"
    assert refused(gzip.compress(b"{" * (BYTES_MAX + 1))) == "oversized"


def test_record_holds_at_most_1000_events() -> None:
    for several in (b"[" + b"{}," * 999 + b"{}]", b"{}\n" * 1_000):
        assert len(found(several)) == 1_000
    for too_many in (b"[" + b"{}," * 1_000 + b"{}]", b"{}\n" * 1_001, b"[" + b'"{}",' * 1_000 + b'"{}"]'):
        assert refused(too_many) == "malformed"


def test_number_too_large_for_a_float_is_infinite_and_one_that_is_not_is_exact() -> None:
    assert json_of(b'[1e999, -1e999, 1e308, 7, "x"]') == [math.inf, -math.inf, 1e308, 7, "x"]
    assert json_of(b"9" * 4_300) == int("9" * 4_300)
    assert json_of(b"[" + b"9" * 5_000 + b"]") == [math.inf]


@given(st.one_of(st.binary(), st.binary().map(lambda b: b"\x1f\x8b" + b), st.text().map(str.encode)))
def test_any_bytes_hold_events_or_are_refused(value: bytes) -> None:
    try:
        events = found(value)
    except EventError as error:
        assert error.reason in ("malformed", "too_deep", "confluent", "oversized")
        assert str(error).encode()
    else:
        assert events and all(type(event) is dict for event in events)
