"""``valuestream user export``: prints everything that is held of a user as one JSON document.

The schema of the document is in ``docs/privacy.md``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any, Final

import click
import msgspec

from stream.clock import Clock, SystemClock
from stream.commands.options import GroupedCommand, settings_options, user_argument
from stream.commands.user.facts import facts, history, orders, reviews
from stream.commands.user.read import Held, Retention, find, partitions_of, retentions, stored_id
from stream.decode.decoder import Decoder, Money
from stream.decode.placeholders import Placeholders
from stream.errors import EventError
from stream.iso_time import iso_seconds
from stream.kafka.client_types import KafkaConsumer, TopicPartition
from stream.kafka.reading import open_topics, read_partition
from stream.kafka.topics import changelog_topic, required_topics
from stream.registry.connect import schemas_of
from stream.registry.schemas import Schemas
from stream.settings import Settings, zone_of

__all__ = ["export"]

#: About as many records as can be read in a few minutes. If there are more, the newest are read and ``all_read`` is
#: false.
_EVENTS_MAX: Final = 5_000_000
_DECODED_AT_ONCE: Final = 1_000

_Matches = Callable[[Any], bool]


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics", "Events", "Schema registry", "Privacy")
@user_argument
@click.option("--no-events", is_flag=True, help="Leave out the raw events, which take the longest to find.")
@click.option(
    "--events-max",
    type=click.IntRange(1),
    default=_EVENTS_MAX,
    show_default=True,
    help="Records of the events topic to look through in each partition, the newest.",
)
def export(user_id: str, no_events: bool, events_max: int, settings: Settings) -> None:
    """Print all that is held of user ID, with the place, time and retention of each piece, as one JSON document."""
    exported = _export(settings, user_id, None if no_events else events_max, SystemClock())
    click.echo(msgspec.json.format(msgspec.json.encode(exported), indent=2))


def _export(settings: Settings, user_id: str, events_max: int | None, clock: Clock) -> dict[str, Any]:
    all_held, stored = find(settings, user_id, everywhere=True), stored_id(settings, user_id)
    schemas = schemas_of(settings, clock)
    topics = [settings.events_topic, settings.alerts_topic, settings.dlq_topic]
    by_id, by_stored = _keyed(user_id), _keyed(stored)
    with closing(open_topics(settings, topics, from_beginning=True)) as consumer:
        expected = partitions_of(consumer, settings.events_topic, user_id)[0]
        numbers = sorted({expected, *(held.partition for held in all_held)})

        def events_in(number: int, newest: int) -> dict[str, Any]:
            tp = TopicPartition(settings.events_topic, number)
            return _events(consumer, tp, clock, settings=settings, user_id=user_id, events_max=newest, schemas=schemas)

        return {
            "schema": "valuestream.user.v1",
            "user_id": user_id,
            "stored_as": stored,
            "exported_at": iso_seconds(int(clock.time())),
            "partitions": numbers,
            "states": [_state(user_id, held) for held in all_held if held.snapshot is not None],
            "erasures": [_erasure(settings, held) for held in all_held if held.marker is not None],
            "scores": [_record(held.score_record, schemas) for held in all_held if held.score_record is not None],
            "alerts": _records(consumer, settings.alerts_topic, numbers, by_stored, schemas),
            "dead_letters": _records(consumer, settings.dlq_topic, numbers, by_id, schemas),
            "events": None if events_max is None else [events_in(number, events_max) for number in numbers],
            "kept": [_kept(kept) for kept in retentions(settings, [s.name for s in required_topics(settings, 0)])],
        }


# -- state ----------------------------------------------------------------------------------------------------


def _state(user_id: str, held: Held) -> dict[str, Any]:
    snapshot = held.snapshot
    assert snapshot is not None
    known = facts(user_id, held, snapshot)
    # The document has these in other places.
    for elsewhere in ("user_id", "partition", "last_events", "score_record"):
        del known[elsewhere]
    return {
        **_place(held.state_record),
        **known,
        "history": history(snapshot),
        "orders_remembered": orders(held.state_record.value) if held.state_record else [],
        "reviews": reviews(snapshot),
        "event_hashes": int(snapshot.users[0]["seen_len"]),
        "packed": b64encode(held.state_record.value).decode() if held.state_record else None,
    }


def _erasure(settings: Settings, held: Held) -> dict[str, Any]:
    assert held.marker is not None
    return {
        "topic": changelog_topic(settings),
        "partition": held.partition,
        "events_dropped_up_to": iso_seconds(int(held.marker.time)),
        "request_offset": held.marker.offset,
    }


# -- records --------------------------------------------------------------------------------------------------


def _keyed(user_id: str) -> _Matches:
    key = user_id.encode()
    return lambda record: record.key == key


def _records(
    consumer: KafkaConsumer, topic: str, numbers: list[int], matches: _Matches, schemas: Schemas | None
) -> list[dict[str, Any]]:
    records = (record for n in numbers for record in read_partition(consumer, TopicPartition(topic, n)))
    return [_record(record, schemas) for record in records if matches(record)]


def _events(
    consumer: KafkaConsumer,
    tp: TopicPartition,
    clock: Clock,
    *,
    settings: Settings,
    user_id: str,
    events_max: int,
    schemas: Schemas | None,
) -> dict[str, Any]:
    """The user's events in one partition: those with the id as their key, and those with the id in their value."""
    first, end = consumer.beginning_offsets([tp])[tp], consumer.end_offsets([tp])[tp]
    start = max(first, end - events_max)
    decoder = Decoder(
        settings.envelope,
        # The export takes no amounts from decoded events, so any currency will do.
        Money("USD", settings.fx_rates, settings.decimal_comma),
        bytes_max=settings.event_bytes_max,
        future_skew_s=settings.future_skew_s,
        placeholders=Placeholders(settings.placeholder_ids),
        zone=zone_of(settings.naive_time_zone),
        content_of=schemas.content if schemas else None,
    )
    exported: list[dict[str, Any]] = []
    records = read_partition(consumer, tp, start, end)
    while chunk := list(islice(records, _DECODED_AT_ONCE)):
        if schemas:
            schemas.fetch_now(chunk)
        exported += [_record(record, schemas) for record in _records_of_user(decoder, chunk, user_id, clock)]
    return {
        "topic": tp.topic,
        "partition": tp.partition,
        "from_offset": start,
        "all_read": start == first,
        "records": exported,
    }


def _records_of_user(decoder: Decoder, records: list[Any], user_id: str, clock: Clock) -> list[Any]:
    decoded = decoder.decode(records, clock.time())
    named = {r.offset for r, user in zip(decoded.records, decoded.batch.users, strict=True) if user == user_id}
    keyed = _keyed(user_id)
    return [record for record in records if record.offset in named or keyed(record)]


def _record(record: Any, schemas: Schemas | None) -> dict[str, Any]:
    return {
        **_place(record),
        "headers": [[name, _text(content)] for name, content in record.headers],
        "value": _value(_content(record, schemas)),
    }


def _place(record: Any) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": iso_seconds(max(0, record.timestamp) // 1000),
    }


def _content(record: Any, schemas: Schemas | None) -> Any:
    """What a record holds by its schema; its value as it is if no schema can be had or fits."""
    if schemas is None:
        return record.value
    schemas.fetch_now([record])
    try:
        return schemas.content(record)
    except EventError:
        return record.value


def _value(content: Any) -> Any:
    """JSON and documents as they are, other text as a string, and other bytes as base64 in an object of their own."""
    if not isinstance(content, bytes):
        return content
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return _text(content)


def _text(content: bytes | None) -> Any:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(content or b"").decode()}


def _kept(kept: Retention) -> dict[str, Any]:
    days = None if kept.kept_ms is None else round(kept.kept_ms / 86_400_000, 2)
    return {"topic": kept.topic, "policy": kept.policy, "days_at_most": days}
