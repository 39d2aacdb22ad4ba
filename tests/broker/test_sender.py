"""Tests of the sender: the pace at which events go out, and that each of them arrives once."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer

from stream.clock import ManualClock, SystemClock
from stream.commands.broker.embedded import EmbeddedBroker
from stream.datasets.events import Record, event_stream
from stream.datasets.market import Market
from stream.errors import ConfigError, ValuestreamError
from stream.kafka import sender
from stream.kafka.clients import kafka_python_config
from stream.kafka.sender import Rate, paced, send_events
from stream.settings import Settings
from tests.broker.harness import events_of

NOW_S = 1_735_689_600


def records_at(*seconds: float) -> list[Record]:
    return [(b"k", str(i).encode(), round((NOW_S + s) * 1000)) for i, s in enumerate(seconds)]


def released(records: Iterable[Record], rate: str, clock: ManualClock, **limits: Any) -> list[tuple[bytes, float]]:
    """Each record's value, and the second after the start at which it was sent."""

    def wait(seconds: float) -> bool:
        assert 0 < seconds <= 1
        clock.advance(seconds=seconds)
        return False

    out = paced(records, Rate.parse(rate), clock, wait, **limits)
    return [(value, clock.monotonic()) for _, value, _ in out]


def no_progress(n: int, elapsed_s: float, time_ms: int) -> None:
    """Show no progress."""


# Pace -------------------------------------------------------------------------------------------------


def test_rate_of_n_sends_n_events_a_second() -> None:
    out = released(records_at(*[0] * 21), "10", ManualClock())
    assert [at for _, at in out] == pytest.approx([n / 10 for n in range(21)])


def test_rate_of_xk_compresses_event_time_k_times() -> None:
    out = released(records_at(0, 60, 90, 90, 3600), "x60", ManualClock())
    assert [at for _, at in out] == pytest.approx([0, 1, 1.5, 1.5, 60])


def test_rate_max_never_waits() -> None:
    assert [at for _, at in released(records_at(0, 86_400, 10), "max", ManualClock())] == [0, 0, 0]


def test_future_events_are_held_back_until_their_time_at_any_rate() -> None:
    for rate in ("max", "1000000", "x1000000"):
        out = released(records_at(-90, -60, 0.001, 5, 7), rate, ManualClock(NOW_S), up_to_now=True)
        assert [at for _, at in out] == pytest.approx([0, 0, 0.001, 5, 7], abs=1e-3)


@given(
    offsets=st.lists(st.floats(-100, 100), max_size=30).map(sorted),
    rate=st.sampled_from(["max", "3", "x0.5", "x50"]),
)
def test_no_event_goes_out_before_its_time_and_order_is_kept(offsets: list[float], rate: str) -> None:
    out = released(records_at(*offsets), rate, ManualClock(NOW_S), up_to_now=True)
    assert [value for value, _ in out] == [str(i).encode() for i in range(len(offsets))]
    for offset, (_, at) in zip(offsets, out, strict=True):
        assert at >= offset - 0.001


def test_seconds_end_the_run_even_while_it_waits() -> None:
    clock = ManualClock(NOW_S)
    out = released(records_at(0, 2, 1_000), "max", clock, seconds=30, up_to_now=True)
    assert len(out) == 2
    assert clock.monotonic() == pytest.approx(30)


def test_stop_while_waiting_ends_the_records() -> None:
    clock = ManualClock(NOW_S)
    assert len(list(paced(records_at(0, 1_000), Rate(), clock, lambda _: True, up_to_now=True))) == 1


@pytest.mark.parametrize("rate", ["", "0", "x0", "-1", "fast", "x", "1e9", "nan", "500/s"])
def test_wrong_rate_is_refused_with_what_is_allowed(rate: str) -> None:
    with pytest.raises(ConfigError, match="expected max, a number of events per second"):
        Rate.parse(rate)


# Through the broker -----------------------------------------------------------------------------------


@pytest.mark.broker
def test_every_event_arrives_once_keyed_and_in_order_within_its_partition(settings: Settings) -> None:
    market = Market(50, datetime(2024, 1, 1, tzinfo=UTC), seed=1)
    stream = list(event_stream(islice(market.events(), 5_000)))
    sent = send_events(settings, stream, Rate(), no_progress, clock=SystemClock())
    assert (sent.events, sent.failed, sent.last_event_ms) == (5_000, 0, stream[-1][2])
    records = events_of(settings)
    assert Counter((r.key, r.value) for r in records) == Counter((key, value) for key, value, _ in stream)
    times = {value: time_ms for _, value, time_ms in stream}
    for partition in range(4):
        in_partition = [times[r.value] for r in records if r.partition == partition]
        assert in_partition == sorted(in_partition)
    partitions_of = {(r.key, r.partition) for r in records}
    assert len(partitions_of) == len({key for key, _ in partitions_of})


@pytest.mark.broker
def test_records_carry_the_time_of_sending_so_that_retention_keeps_old_events(settings: Settings) -> None:
    before_ms = datetime.now(UTC).timestamp() * 1000
    send_events(settings, [(b"u", b"{}", 1_000)], Rate(), no_progress, clock=SystemClock())
    (record,) = events_of(settings)
    assert record.timestamp >= before_ms - 1_000


@pytest.mark.broker
def test_record_that_the_broker_refuses_is_counted_and_the_others_arrive(settings: Settings) -> None:
    stream = [(b"u", b"{}", 0), (b"u", b"x" * 2_000_000, 0), (b"u", b"[]", 0)]
    sent = send_events(settings, stream, Rate(), no_progress, clock=SystemClock())
    assert (sent.events, sent.failed) == (2, 1)
    assert [record.value for record in events_of(settings)] == [b"{}", b"[]"]
    with pytest.raises(ValuestreamError, match="1 events were not delivered"):
        sent.require_all()


@pytest.mark.broker
def test_too_many_refused_records_end_the_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FAILED_MAX", 3)
    stream = [(b"u", b"x" * 2_000_000, 0)] * 10 + [(b"u", b"{}", 0)]
    sent = send_events(settings, stream, Rate(), no_progress, clock=SystemClock())
    assert (sent.events, sent.failed) == (0, 3)


@pytest.mark.broker
def test_no_more_events_are_in_flight_than_allowed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "IN_FLIGHT_MAX", 7)
    with contextlib.closing(KafkaProducer(**kafka_python_config(settings), linger_ms=50)) as producer:
        run = sender._Run(producer, settings.events_topic)
        in_flight: list[int] = []

        def records() -> Iterator[Record]:
            for i in range(100):
                in_flight.append(len(run._in_flight))
                yield (b"u", b"{}", i)

        assert run.send_all(records(), no_progress, SystemClock(), threading.Event()).events == 100
    assert max(in_flight) == 7


@pytest.mark.broker
def test_events_without_an_acknowledgement_are_counted_as_failed(
    settings: Settings, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "DELIVERY_TIMEOUT_S", 2.0)

    def records() -> Iterator[Record]:
        yield (b"u", b"{}", 0)
        broker.pause()
        yield from [(b"u", b"{}", 0)] * 20

    try:
        sent = send_events(settings, records(), Rate(), no_progress, clock=SystemClock())
    finally:
        broker.resume()
    assert sent.failed >= 20
    assert sent.events + sent.failed == 21


@pytest.mark.broker
def test_stop_ends_an_endless_stream_with_everything_acknowledged(settings: Settings) -> None:
    stop, n_yielded = threading.Event(), 0

    def endless() -> Iterable[Record]:
        nonlocal n_yielded
        while True:
            n_yielded += 1
            if n_yielded == 500:
                stop.set()
            yield (b"u", str(n_yielded).encode(), 0)

    sent = send_events(settings, endless(), Rate(), no_progress, clock=SystemClock(), stop=stop)
    assert sent.events == n_yielded == 500
    assert len(events_of(settings)) == 500


@pytest.mark.broker
def test_missing_topic_is_one_line_with_what_to_do(settings: Settings) -> None:
    other = settings.model_copy(update={"events_topic": "not-there"})
    with pytest.raises(ConfigError, match=r"'not-there' not found .* `valuestream topics create`"):
        send_events(other, [], Rate(), no_progress, clock=SystemClock())
