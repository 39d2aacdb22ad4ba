"""``valuestream user show``: what the service knows of one user, read from its changelog, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec
import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from stream import changelog
from stream.contract.columns import IDLE_AGES_S, WINDOWS
from stream.contract.events import VALUE_SCALE, EventType
from stream.contract.score import Score
from stream.errors import ConfigError, ContractError, ValuestreamError
from stream.features import windows
from stream.service.clock import Clock, SystemClock
from stream.service.options import GroupedCommand, settings_options
from stream.service.settings import Settings
from stream.service.tail import open_topics, printable, score_words, shown_time
from stream.service.topics import changelog_topic
from stream.service.words import score_details
from stream.state import PartitionState, Snapshot

__all__ = ["partition_of", "user"]

_LAST_EVENTS: Final = 10
#: A broker that brings nothing for this long, with records left to read, is not going to.
_SILENCE_MAX_S: Final = 15.0
_POLL_MS: Final = 500
_POLL_RECORDS: Final = 5_000


@click.group()
def user() -> None:
    """Look at single users."""


@user.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@click.argument("user_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(user_id: str, as_json: bool, settings: Settings) -> None:
    """Say what is known of user ID: state, windows, last events, last score.

    It is read from the changelog and the scores topic, so it is as fresh as the worker's last checkpoint.
    """
    found = _find(settings, user_id, SystemClock())
    click.echo(msgspec.json.encode(_facts(found)) if as_json else _words(found))


@dataclass(frozen=True, slots=True)
class _Found:
    """A user's state (a snapshot of one), where it was, and the newest record of the scores topic."""

    user_id: str
    changelog: str
    partition: int
    snapshot: Snapshot
    score: Score | None

    @property
    def state(self) -> Any:
        """The row of ``USER``."""
        return self.snapshot.users[0]

    @property
    def history(self) -> list[Any]:
        """The events kept one by one, the newest first."""
        return list(self.snapshot.history[0][: self.state["history_len"]][::-1])


# -- reading --------------------------------------------------------------------------------------------------


def partition_of(user_id: str, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives a key: murmur2, as in the Java client."""
    return int(murmur2(user_id.encode()) & 0x7FFFFFFF) % partitions


def _find(settings: Settings, user_id: str, clock: Clock) -> _Found:
    topic = changelog_topic(settings)
    with closing(open_topics(settings, [topic, settings.scores_topic], from_beginning=True)) as consumer:
        count = sum(tp.topic == topic for tp in consumer.assignment())
        expected = partition_of(user_id, count)
        # A producer with a partitioner of its own may have put the user elsewhere.
        for number in sorted(range(count), key=lambda n: n != expected):
            value = _latest(consumer, TopicPartition(topic, number), user_id, clock)
            if value is not None:
                score = _latest(consumer, TopicPartition(settings.scores_topic, number), user_id, clock)
                return _Found(user_id, topic, number, _snapshot(user_id, value), _score(score))
    raise ValuestreamError(
        f"user {printable(user_id)!r} is not in {topic} ({count} partitions read to their end); expected an id that"
        " has sent events before the last checkpoint; check the id, --app-id and --bootstrap-servers"
    )


def _latest(consumer: KafkaConsumer, tp: TopicPartition, user_id: str, clock: Clock) -> bytes | None:
    """The newest value of this key, None where there is none or it was erased."""
    latest = None
    for record in _to_the_end(consumer, tp, clock):
        if record.key == user_id.encode():
            latest = record.value
    return latest


def _to_the_end(consumer: KafkaConsumer, tp: TopicPartition, clock: Clock) -> Iterator[Any]:
    """All records of a partition up to its end as of now."""
    consumer.assign([tp])
    consumer.seek_to_beginning(tp)
    end = consumer.end_offsets([tp])[tp]
    heard = clock.monotonic()
    while consumer.position(tp) < end:
        records = consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS).get(tp, [])
        yield from (record for record in records if record.offset < end)
        if records:
            heard = clock.monotonic()
        elif clock.monotonic() - heard > _SILENCE_MAX_S:
            raise ConfigError(
                f"{tp.topic}, partition {tp.partition}: nothing came for {_SILENCE_MAX_S:.0f} s at offset"
                f" {consumer.position(tp)} of {end}; expected a broker that answers; check its health"
            )


def _score(value: bytes | None) -> Score | None:
    try:
        return None if value is None else msgspec.json.decode(value, type=Score)
    except msgspec.MsgspecError as error:
        raise ContractError(
            f"the user's record in the scores topic is not one of ours ({error}); expected valuestream.score.v1;"
            " check --scores-topic"
        ) from None


def _snapshot(user_id: str, value: bytes) -> Snapshot:
    """Unpack one changelog value. Raises ContractError for one that a newer release wrote."""
    state = PartitionState(lateness_s=0)
    return state.snapshot(changelog.load(state, [user_id], [value]))


# -- facts and words ------------------------------------------------------------------------------------------


def _facts(found: _Found) -> dict[str, Any]:
    """Everything, as plain values; windows end at the last event."""
    state = found.state
    last_time = np.array([state["last_time"]], np.int64)
    counts, revenue = windows(found.snapshot, last_time)
    return {
        "user_id": found.user_id,
        "partition": found.partition,
        "applied_offset": int(state["applied_offset"]),
        "first_seen": _iso(state["first_time"]),
        "last_event": _iso(state["last_time"]),
        "events": int(state["n_events"]),
        "orders": int(state["orders"]),
        "revenue": _money(state["revenue"]),
        "windows": {
            name: {
                "events": {t.name.lower(): int(counts[0, w, t - 1]) for t in EventType if counts[0, w, t - 1]},
                "revenue": _money(revenue[0, w]),
            }
            for w, name in enumerate(WINDOWS)
        },
        "last_events": [
            {"time": _iso(e["time"]), "type": EventType(int(e["type"])).name.lower(), "value": _money(e["value"])}
            for e in found.history[:_LAST_EVENTS]
        ],
        "last_score": _last_score(state),
        "score_record": found.score,
    }


def _last_score(state: Any) -> dict[str, Any] | None:
    if state["scored_offset"] < 0:
        return None
    return {
        "scored_offset": int(state["scored_offset"]),
        "has_seen_last_event": bool(state["scored_offset"] >= state["applied_offset"]),
        "silence_days": int(IDLE_AGES_S[state["idle_stage"]]) // 86_400,
        "churn": round(float(state["churn"]), 6),
        "purchase": round(float(state["purchase"]), 6),
        "ltv": round(float(state["ltv"]), 4),
    }


def _words(found: _Found) -> str:
    facts = _facts(found)
    currency = f" {printable(found.score.ltv.currency)}" if found.score else ""
    lines = [
        f"user {printable(found.user_id)}  ({found.changelog}, partition {found.partition})",
        "",
        f"  first seen      {shown_time(facts['first_seen'])}",
        f"  last event      {shown_time(facts['last_event'])}",
        f"  events          {facts['events']:,}",
        f"  orders          {facts['orders']:,}",
        f"  revenue         {facts['revenue']:,.2f}{currency}",
        f"  applied offset  {facts['applied_offset']:,}",
        "",
        "windows that end at the last event",
        *(_window_words(name, window, currency) for name, window in facts["windows"].items()),
        "",
        f"last {len(facts['last_events'])} of {facts['events']:,} events, newest first",
        *(_event_words(event, currency) for event in facts["last_events"]),
        "",
        "last score, in state",
        f"  {_score_words(facts['last_score'], currency)}",
        "newest record in the scores topic",
        *(f"  {line}" for line in _record_lines(found.score)),
    ]
    return "\n".join(lines)


def _window_words(name: str, window: dict[str, Any], currency: str) -> str:
    n = sum(window["events"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in window["events"].items())
    noun = "event " if n == 1 else "events"
    return f"  {name:>3}  {n:>6,} {noun}  {window['revenue']:>12,.2f}{currency}   {kinds}".rstrip()


def _event_words(event: dict[str, Any], currency: str) -> str:
    value = f"  {event['value']:>12,.2f}{currency}" if event["value"] else ""
    return f"  {shown_time(event['time'])}  {event['type']:<9}{value}".rstrip()


def _score_words(score: dict[str, Any] | None, currency: str) -> str:
    if score is None:
        return "none yet"
    silence = f", after {score['silence_days']} days of silence" if score["silence_days"] else ""
    seen = "its last event is in it" if score["has_seen_last_event"] else "its last event is not in it yet"
    return (
        f"churn {score['churn']:.0%}, buys {score['purchase']:.0%}, worth {score['ltv']:,.2f}{currency}{silence}"
        f" (offset {score['scored_offset']:,}: {seen})"
    )


def _record_lines(score: Score | None) -> list[str]:
    if score is None:
        return ["none yet"]
    return [f"{shown_time(score.as_of)}  {score_words(score)}", *score_details(score)]


def _money(hundredths: Any) -> float:
    return int(hundredths) / VALUE_SCALE


def _iso(seconds: Any) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
