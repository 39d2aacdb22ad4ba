"""Headers of dead letters: what each kind of writer says is read, what cannot be read raises nothing."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.clock import ManualClock
from stream.commands.dlq.letters import Letter, read_letter
from stream.commands.dlq.read import Place, Selection, iso, moment_ms
from stream.commands.dlq.tables import grouped, letter_facts, letter_line, letter_words, private_facts, table
from stream.decode.dead_letters import ATTEMPT, dead_letter
from stream.decode.decoder import DeadLetter
from stream.errors import ConfigError

Headers = list[tuple[str, bytes | None]]


def record(headers: Headers, key: bytes | None = b"ann", value: bytes | None = b"{}", **changed: Any) -> Any:
    place = {"topic": "dlq", "partition": 2, "offset": 17, "timestamp": 1_735_689_600_000}
    return SimpleNamespace(key=key, value=value, headers=headers, **{**place, **changed})


OURS: Headers = [
    ("valuestream.error.reason", b"currency"),
    ("valuestream.error.message", b"currency is 'XTS'"),
    ("valuestream.error.stage", b"decode"),
    ("valuestream.source.topic", b"events"),
    ("valuestream.source.partition", b"3"),
    ("valuestream.source.offset", b"1034"),
    ("valuestream.source.timestamp", b"1735689599000"),
    ("valuestream.attempt", b"2"),
]
CONNECT: Headers = [
    ("__connect.errors.topic", b"orders"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"1034"),
    ("__connect.errors.connector.name", b"jdbc-sink"),
    ("__connect.errors.task.id", b"0"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.class.name", b"org.apache.kafka.connect.json.JsonConverter"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ("__connect.errors.exception.message", b"Converting byte[] failed"),
    ("__connect.errors.exception.stacktrace", b"org.apache..."),
]
SPRING: Headers = [
    ("kafka_dlt-original-topic", b"orders"),
    ("kafka_dlt-original-partition", struct.pack(">i", 3)),
    ("kafka_dlt-original-offset", struct.pack(">q", 1034)),
    ("kafka_dlt-original-timestamp", struct.pack(">q", 1_735_689_599_000)),
    ("kafka_dlt-original-timestamp-type", b"CreateTime"),
    ("kafka_dlt-original-consumer-group", b"billing"),
    ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
    ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
    ("kafka_dlt-exception-message", b"Listener failed; no such order"),
]


# What is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "said"),
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
    ids=["ours", "connect", "spring", "nobody's"],
)
def test_each_writer_s_headers_are_read(headers: Headers, said: tuple[object, ...]) -> None:
    letter = read_letter(record([("trace", b"t1"), ("empty", None), *headers]))
    found = (letter.writer, letter.reason, letter.message, letter.stage, letter.failed_in, letter.source_topic)
    assert (*found, letter.source_partition, letter.source_offset, letter.source_time_ms, letter.attempt) == said
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
def test_malformed_decimal_is_as_if_it_had_not_been_said(family: Headers, content: bytes | None) -> None:
    bad = [(name, content if name.endswith(("partition", "offset", "attempt")) else said) for name, said in family]
    letter = read_letter(record(bad))
    assert (letter.source_partition, letter.source_offset, letter.attempt) == (None, None, 1)
    assert letter.source_topic in ("events", "orders")


@pytest.mark.parametrize(
    "content", [None, b"", b"3", b"\0" * 3, b"\0" * 9, struct.pack(">i", -1), struct.pack(">q", -1)]
)
def test_malformed_big_endian_is_as_if_it_had_not_been_said(content: bytes | None) -> None:
    letter = read_letter(record([(name, content if "original-p" in name else said) for name, said in SPRING]))
    assert (letter.source_partition, letter.source_offset) == (None, 1034)


def test_texts_are_bounded_and_need_not_be_utf_8() -> None:
    letter = read_letter(
        record([("valuestream.error.reason", b"\xff" * 100_000), ("valuestream.error.message", b"\xc3")])
    )
    assert letter.reason == "\ufffd" * 500
    assert letter.message == "\ufffd"


def test_of_headers_with_one_name_the_last_counts_as_writers_append() -> None:
    letter = read_letter(record([*SPRING, ("kafka_dlt-original-topic", b"orders-retry")]))
    assert letter.source_topic == "orders-retry"


def test_who_wrote_last_says_why_and_the_headers_before_are_part_of_the_event() -> None:
    letter = read_letter(record([("a", b"1"), *OURS, *CONNECT]))
    assert letter.writer == "connect"
    assert letter.headers == (("a", b"1"), *(header for header in OURS if header[0] != ATTEMPT))
    letter = read_letter(record([*CONNECT, *OURS]))
    assert (letter.writer, letter.headers) == ("valuestream", tuple(CONNECT))


def test_attempts_of_others_count_up_by_the_header_that_a_replay_sends() -> None:
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
def test_no_record_raises_and_all_of_it_can_be_shown(headers: Headers, value: bytes | None, timestamp: int) -> None:
    letter = read_letter(record(headers, value=value, timestamp=timestamp))
    assert letter.reason and letter.attempt >= 1
    assert all(n is None or 0 <= n < 2**63 for n in (letter.source_partition, letter.source_offset, letter.cut_from))
    json = msgspec.json.decode(msgspec.json.encode(private_facts(letter, full=False)))
    assert json["place"] == "2:17"
    shown = [letter_line(letter), *table(grouped([letter])), *letter_words(letter, full=True).split("\n")]
    assert all(line.isprintable() for line in shown)


OWN_HEADERS = st.lists(st.tuples(st.text(max_size=8).map(lambda name: f"x-{name}"), st.none() | st.binary(max_size=20)))


@given(OWN_HEADERS, st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9), st.integers(0, 2**31))
def test_what_the_worker_writes_is_read_back_as_the_event_it_was(
    headers: Headers, key: bytes | None, value: bytes | None, offset: int
) -> None:
    event = record(headers, key, value, topic="events", offset=offset)
    out = dead_letter(DeadLetter(event, "late", "too late", stage="state"), "events", 2)
    letter = read_letter(record(list(out.headers), out.key, out.value))
    assert (letter.key, letter.value, list(letter.headers)) == (key, value, headers)
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("events", 2, offset)
    assert (letter.reason, letter.message, letter.stage, letter.attempt) == ("late", "too late", "state", 1)
    assert letter.cut_from is None


def test_event_that_the_worker_cut_is_known_as_cut() -> None:
    out = dead_letter(DeadLetter(record([], value=b"x" * 2_000_000), "oversized", "too large"), "events", 2)
    letter = read_letter(record(list(out.headers), out.key, out.value))
    assert letter.cut_from is not None
    assert letter.cut_from > 2_000_000 > len(letter.value or b"")


# Asking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2025-01-01T11:58:30.000Z"),
        ("2h", "2025-01-01T10:00:00.000Z"),
        ("7d", "2024-12-25T12:00:00.000Z"),
        ("2024-12-24", "2024-12-24T00:00:00.000Z"),
        ("2024-12-24T18:00:00.250Z", "2024-12-24T18:00:00.250Z"),
        ("2024-12-24T18:00:00+02:00", "2024-12-24T16:00:00.000Z"),
    ],
)
def test_moments_are_iso_times_or_so_long_ago(text: str, expected: str) -> None:
    assert iso(moment_ms(text, ManualClock(start=1_735_732_800))) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2w", "1969-12-31", "0001-01-01", "999999d", "9" * 40 + "d", "soon"]
)
def test_other_moments_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="expected an ISO time"):
        moment_ms(text, ManualClock(start=1_735_732_800))


@pytest.mark.parametrize("text", ["", "2", "2:", ":7", "2:-7", "2:7:1", "a:b", "2: 7", f"2:{'9' * 30}"])
def test_other_places_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="expected PARTITION:OFFSET"):
        Place.parse(text)


def test_selection_takes_from_since_to_before_until() -> None:
    letter = read_letter(record(OURS))
    at = letter.time_ms
    assert Selection(since_ms=at, until_ms=at + 1).takes(letter)
    assert not Selection(since_ms=at + 1).takes(letter)
    assert not Selection(until_ms=at).takes(letter)
    assert Selection(frozenset({"late", "currency"})).takes(letter)
    assert not Selection(frozenset({"late"})).takes(letter)


# Words -------------------------------------------------------------------------------------------------------


def letters_of(*reasons: str) -> list[Letter]:
    return [
        read_letter(record([("valuestream.error.reason", reason.encode())], offset=i))
        for i, reason in enumerate(reasons)
    ]


def test_made_up_reasons_do_not_fill_the_memory() -> None:
    groups = grouped(letters_of(*(f"r{i}" for i in range(1_000))))
    assert len(groups) == 201
    assert (groups[0].reason, groups[0].count) == ("(others)", 800)


def test_line_and_facts_that_are_not_asked_for_say_nothing_of_the_event() -> None:
    letter = read_letter(record([("mail", b"secret-h"), *OURS], key=b"secret-k", value=b"secret-v"))
    for shown in (letter_line(letter), str(letter_facts(letter)), str(table(grouped([letter])))):
        assert "secret" not in shown
        assert "currency" in shown


def test_long_values_are_cut_unless_asked_for_whole_and_bytes_are_escaped() -> None:
    letter = read_letter(record([*[("x", b"")] * 60, *OURS], key=b"\xff\x1b[2J", value=b"v" * 10_000))
    words = letter_words(letter, full=False)
    assert "6,000 more characters" in words
    assert "10 more headers" in words
    assert "\\xff\\x1b[2J" in words
    assert "v" * 10_000 in letter_words(letter, full=True)
    assert private_facts(letter, full=True)["key"] == "\\xff\x1b[2J"
