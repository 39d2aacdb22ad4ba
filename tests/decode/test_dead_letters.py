"""Dead letters: the record keeps what came, says why it was not used, and always fits its topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from stream.decode.dead_letters import dead_letter
from stream.decode.decoder import DeadLetter
from stream.kafka.topics import required_topics
from stream.outgoing import Outgoing
from stream.settings import Settings

OURS = [
    *("valuestream.error.reason", "valuestream.error.message", "valuestream.error.stage"),
    *("valuestream.source.topic", "valuestream.source.partition", "valuestream.source.offset"),
    *("valuestream.source.timestamp", "valuestream.attempt"),
]


@dataclass(frozen=True)
class Record:
    """A consumer record with the fields that aiokafka gives it."""

    value: bytes | None = b"{"
    key: bytes | None = b"u"
    headers: Sequence[tuple[str, bytes | None]] = ()
    offset: int = 42
    timestamp: int = 1_700_000_000_123


def dead(record: Record, reason: str = "malformed", message: str = "value is not JSON") -> Outgoing:
    return dead_letter(DeadLetter(record, reason, message), "events", 3)


def header(outgoing: Outgoing, name: str) -> str:
    (value,) = [v for n, v in outgoing.headers if n == name]
    return (value or b"").decode()


def test_dead_letter_says_what_was_wrong_and_where_it_came_from() -> None:
    found = dead(Record())
    expected = ["malformed", "value is not JSON", "decode", "events", "3", "42", "1700000000123", "1"]
    assert [header(found, name) for name in OURS] == expected
    assert [name for name, _ in found.headers] == OURS


def test_dead_letter_of_a_later_stage_names_it() -> None:
    found = dead_letter(DeadLetter(Record(), "late", "…", stage="state"), "events", 3)
    assert header(found, "valuestream.error.stage") == "state"


@pytest.mark.parametrize("value", [None, b"", b"\xff\x00", b"{}"])
@pytest.mark.parametrize("key", [None, b"", b"\xff"])
def test_key_and_value_are_kept_as_they_came(key: bytes | None, value: bytes | None) -> None:
    found = dead(Record(key=key, value=value))
    assert (found.key, found.value) == (key, value)


def test_headers_of_the_event_stay_in_order_before_ours_even_repeated_and_empty_ones() -> None:
    came = [("trace", b"1"), ("trace", b"2"), ("empty", b""), ("null", None), ("bytes", b"\xff")]
    found = dead(Record(headers=came))
    assert list(found.headers[:5]) == came
    assert [name for name, _ in found.headers[5:]] == OURS


def test_attempt_counts_up_and_our_other_headers_are_replaced_each_time() -> None:
    record = Record(headers=(("trace", b"1"),))
    for attempt in range(1, 13):
        found = dead(record, message=f"attempt {attempt}")
        assert header(found, "valuestream.attempt") == str(attempt)
        assert header(found, "valuestream.error.message") == f"attempt {attempt}"
        assert [name for name, _ in found.headers] == ["trace", *OURS]
        record = replace(record, headers=found.headers)


@pytest.mark.parametrize("before", [None, b"", b"x", b"-1", b"1.5", b"\xff", b"9" * 5_000, "١".encode()])
def test_attempt_header_that_we_did_not_write_is_ignored(before: bytes | None) -> None:
    assert header(dead(Record(headers=(("valuestream.attempt", before),))), "valuestream.attempt") == "1"


def test_last_of_several_attempt_headers_counts() -> None:
    several = (("valuestream.attempt", b"7"), ("valuestream.attempt", b"2"))
    assert header(dead(Record(headers=several)), "valuestream.attempt") == "3"


def test_long_message_is_cut() -> None:
    assert len(header(dead(Record(), message="x" * 10_000), "valuestream.error.message")) == 500


def size(outgoing: Outgoing) -> int:
    """Return the bytes of the record batch, which Kafka compares with the topic's limit."""
    builder = BatchBuilder(100_000_000, 0)
    builder.append(key=outgoing.key, value=outgoing.value, timestamp=0, headers=list(outgoing.headers))
    builder.close()
    return builder.size()


MIB = 1024 * 1024


@pytest.mark.parametrize(
    "record",
    [
        Record(value=b"x" * (MIB - 101)),
        Record(value=b"x" * (5 * MIB)),
        Record(key=b"x" * (5 * MIB)),
        Record(headers=[("h", b"x" * (5 * MIB))]),
        Record(headers=[("", b"")] * 500_000),
        Record(headers=[("é" * 1_000, None)] * 1_000),
        Record(value=b"x" * (MIB // 2), headers=[("", b"")] * 50_000),
    ],
    ids=["largest whole", "value", "key", "header", "many headers", "header names", "both"],
)
def test_dead_letter_of_an_event_of_any_size_fits_its_topic(record: Record) -> None:
    (topic,) = [t for t in required_topics(Settings(), 1) if t.name == Settings().dlq_topic]
    made = dead_letter(DeadLetter(record, "malformed", "ü" * 1_000), "t" * 249, 3)
    assert 0 < size(made) <= int(topic.config["max.message.bytes"])


def test_dead_letter_of_a_large_event_keeps_its_beginning_and_its_size() -> None:
    record = Record(value=bytes(range(256)) * 20_000, key=b"k" * 5_000, headers=(("valuestream.attempt", b"4"),))
    found = dead(record, reason="oversized")
    assert (record.value or b"").startswith(found.value or b"?")
    assert (record.key or b"").startswith(found.key or b"?")
    assert int(header(found, "valuestream.source.bytes")) >= 5_120_000 + 5_000
    assert header(found, "valuestream.attempt") == "5"
    whole = dead(Record(value=b"x" * 1_000_000))
    assert "valuestream.source.bytes" not in [name for name, _ in whole.headers]


HEADERS = st.lists(
    st.tuples(st.one_of(st.sampled_from(OURS), st.text(max_size=5)), st.none() | st.binary(max_size=12)), max_size=5
)


@given(HEADERS, st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9), st.text(max_size=9))
def test_any_record_can_become_a_dead_letter(
    headers: list[tuple[str, bytes | None]], key: bytes | None, value: bytes | None, message: str
) -> None:
    found = dead(Record(headers=headers, key=key, value=value), message=message)
    names = [name for name, _ in found.headers]
    assert [names.count(name) for name in OURS] == [1] * len(OURS)
    assert [h for h in found.headers if h[0] not in OURS] == [h for h in headers if h[0] not in OURS]
    assert size(found) > 0
