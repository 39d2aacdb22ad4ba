"""Limits: measures reading alone, decoding alone, or both. Nothing is kept.

The names are ``aiokafka``, ``decode`` and ``aiokafka_decode``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.decode.decoder import Decoder, Money
from stream.kafka.clients import aiokafka_config
from stream.score.scorer import DEMO_MODEL, Scorer
from stream.settings import Settings
from tests.bench.meter import Meter
from tests.broker.harness import PARTITIONS

#: ``decode`` goes through the records so many times, because it is the fastest by far.
LAPS = 3


async def fetches(settings: Settings) -> AsyncIterator[tuple[int, list[Any]]]:
    """The topic from its start, as (partition, records), with as many records at a time as our worker fetches."""
    consumer = AIOKafkaConsumer(**aiokafka_config(settings), enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.events_topic, p) for p in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        while True:
            found = await consumer.getmany(timeout_ms=1_000, max_records=settings.fetch_records_max)
            for tp, records in found.items():
                yield tp.partition, records
    finally:
        await consumer.stop()


def our_decoder(settings: Settings) -> Decoder:
    """A decoder with the settings of the worker."""
    money = Money(Scorer(DEMO_MODEL).manifest.currency)
    skew_s = settings.future_skew_s
    return Decoder(settings.envelope, money, bytes_max=settings.event_bytes_max, future_skew_s=skew_s)


async def read(settings: Settings, meter: Meter, *, decode: bool) -> None:
    """Read the topic, and with ``decode`` decode it too."""
    decoder = our_decoder(settings)
    async for partition, records in fetches(settings):
        if decode:
            decoder.decode(records, time.time())
        meter.add(len(records), partition)
        if meter.done:
            return


async def decode_alone(settings: Settings, meter: Meter) -> None:
    """Decode records that lie in memory. The time for reading them does not count."""
    decoder, held, n = our_decoder(settings), [], 0
    async for partition, records in fetches(settings):
        held.append((partition, records))
        n += len(records)
        if n >= meter.limit:
            break
    meter.limit = LAPS * n
    for partition, records in LAPS * held:
        decoder.decode(records, time.time())
        meter.add(len(records), partition)


def main(what: str) -> None:
    """Measure one limit."""
    settings, meter = Settings(), Meter.from_environment()
    job = decode_alone(settings, meter) if what == "decode" else read(settings, meter, decode="decode" in what)
    uvloop.run(job)


if __name__ == "__main__":
    main(sys.argv[1])
