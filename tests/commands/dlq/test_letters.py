"""Headers of dead letters: those of each kind of writer are read, and malformed ones raise nothing."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.commands.dlq.formatting import (
    grouped,
    groups_table,
    letter_facts_with_event,
    letter_line,
    letter_words,
)
from stream.commands.dlq.letters import read_letter
from stream.decode.dead_letters import ATTEMPT, dead_letter
from stream.decode.decoder import DeadLetter
from tests.commands.dlq.records import CONNECT, OURS, SPRING, Headers, record

# What is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (OURS, ("valuestream", "currency", "currency is 'XTS'", "decode", "", "events", 3, 1034, 1_735_689_599_000, 2)),
        (
            CONNECT,
            (
                "connect",
                "DataException",
                "Converting byte[] failed",
                "value_converter",
                "connector jdbc-sink, task 0",
                "orders",
                3,
                1034,
                None,
                1,
            ),
        ),
        (
            SPRING,
            (
                "spring",
                "IllegalStateException",
                "Listener failed; no such order",
                "",
                "consumer group billing",
                "orders",
                3,
                1034,
                1_735_689_599_000,
                1,
            ),
        ),
        ([], ("unknown", "unknown", "", "", "", "", None, None, None, 1)),
    ],
    ids=["ours", "connect", "spring", "unknown"],
)
def test_headers_of_each_writer_are_read(headers: Headers, expected: tuple[object, ...]) -> None:
    letter = read_letter(record([("trace", b"t1"), ("empty", None), *headers]))
    texts = (letter.writer, letter.reason, letter.message, letter.stage, letter.failed_in, letter.source_topic)
    assert (*texts, letter.source_partition, letter.source_offset, letter.source_time_ms, letter.attempt) == expected
    assert letter.headers == (("trace", b"t1"), ("empty", None))
    assert (letter.place, letter.key, letter.value) == ("2:17", b"ann", b"{}")


MALFORMED = {
    "no number": b"three",
    "empty": b"",
    "null": None,
    "negative": b"-3",
    "signed": b"+3",
    "spaces": b" 3 ",
    "other digits": "٣".encode(),
    "too long": b"9" * 5_000,
    "binary": struct.pack(">i", 3),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("family", [OURS, CONNECT], ids=["ours", "connect"])
def test_malformed_decimal_counts_as_missing(family: Headers, content: bytes | None) -> None:
    bad = [(name, content if name.endswith(("partition", "offset", "attempt")) else text) for name, text in family]
    letter = read_letter(record(bad))
    assert (letter.source_partition, letter.source_offset, letter.attempt) == (None, None, 1)
    assert letter.source_topic in ("events", "orders")


@pytest.mark.parametrize(
    "content", [None, b"", b"3", b"\0" * 3, b"\0" * 9, struct.pack(">i", -1), struct.pack(">q", -1)]
)
def test_malformed_big_endian_counts_as_missing(content: bytes | None) -> None:
    letter = read_letter(record([(name, content if "original-p" in name else text) for name, text in SPRING]))
    assert (letter.source_partition, letter.source_offset) == (None, 1034)


def test_texts_are_bounded_and_need_not_be_utf_8() -> None:
    letter = read_letter(
        record([("valuestream.error.reason", b"\xff" * 100_000), ("valuestream.error.message", b"\xc3")])
    )
    assert letter.reason == "\ufffd" * 500
    assert letter.message == "\ufffd"


def test_last_of_several_headers_with_the_same_name_counts() -> None:
    letter = read_letter(record([*SPRING, ("kafka_dlt-original-topic", b"orders-retry")]))
    assert letter.source_topic == "orders-retry"


def test_last_writer_gives_the_reason_and_earlier_headers_are_part_of_the_event() -> None:
    letter = read_letter(record([("a", b"1"), *OURS, *CONNECT]))
    assert letter.writer == "connect"
    assert letter.headers == (("a", b"1"), *(header for header in OURS if header[0] != ATTEMPT))
    letter = read_letter(record([*CONNECT, *OURS]))
    assert (letter.writer, letter.headers) == ("valuestream", tuple(CONNECT))


def test_attempt_header_of_a_replay_is_counted_up_for_other_writers() -> None:
    assert read_letter(record([(ATTEMPT, b"4"), *CONNECT])).attempt == 5
    assert read_letter(record([(ATTEMPT, b"4"), *OURS[:-1]])).attempt == 4


# What holds for all ----------------------------------------------------------------------------------------

NAMES = sorted({name for name, _ in (*OURS, *CONNECT, *SPRING)} | {"valuestream.source.bytes", "trace", ""})
NUMBERS = st.integers(-1, 2**63 - 1).map(lambda n: str(n).encode()) | st.integers(-(2**63), 2**63 - 1).map(
    lambda n: n.to_bytes(8, "big", signed=True)
)
ANY_HEADERS = st.lists(
    st.tuples(st.sampled_from(NAMES) | st.text(max_size=8), st.none() | NUMBERS | st.binary(max_size=40))
)


@given(ANY_HEADERS, st.none() | st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1))
def test_any_record_can_be_read_and_shown(headers: Headers, value: bytes | None, timestamp: int) -> None:
    letter = read_letter(record(headers, value=value, timestamp=timestamp))
    assert letter.reason and letter.attempt >= 1
    assert all(n is None or 0 <= n < 2**63 for n in (letter.source_partition, letter.source_offset, letter.cut_from))
    json = msgspec.json.decode(msgspec.json.encode(letter_facts_with_event(letter, full=False)))
    assert json["place"] == "2:17"
    shown = [letter_line(letter), *groups_table(grouped([letter])), *letter_words(letter, full=True).split("\n")]
    assert all(line.isprintable() for line in shown)


OWN_HEADERS = st.lists(st.tuples(st.text(max_size=8).map(lambda name: f"x-{name}"), st.none() | st.binary(max_size=20)))


@given(OWN_HEADERS, st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9), st.integers(0, 2**31))
def test_dead_letter_of_the_worker_is_read_back_as_the_event_it_was(
    headers: Headers, key: bytes | None, value: bytes | None, offset: int
) -> None:
    event = record(headers, key, value, topic="events", offset=offset)
    out = dead_letter(DeadLetter(event, "late", "too late", stage="state"), "events", 2)
    letter = read_letter(record(list(out.headers), out.key, out.value))
    assert (letter.key, letter.value, list(letter.headers)) == (key, value, headers)
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("events", 2, offset)
    assert (letter.reason, letter.message, letter.stage, letter.attempt) == ("late", "too late", "state", 1)
    assert letter.cut_from is None


def test_event_that_the_worker_cut_is_read_as_cut() -> None:
    out = dead_letter(DeadLetter(record([], value=b"x" * 2_000_000), "oversized", "too large"), "events", 2)
    letter = read_letter(record(list(out.headers), out.key, out.value))
    assert letter.cut_from is not None
    assert letter.cut_from > 2_000_000 > len(letter.value or b"")
