"""``valuestream user erase``: asks the workers to forget a user, waits for their answers, and says what is kept.

The request goes to every partition of the events topic, behind all events that are there. So the partition that has the
user gets it, however the events were keyed. The other partitions drop events of the user that may still come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, Final

import click
import msgspec

from stream.clock import Clock, SystemClock
from stream.commands.console import printable, shown_time
from stream.commands.options import GroupedCommand, settings_options, user_argument
from stream.commands.user.read import Held, Retention, find, retentions, stored_id
from stream.errors import ValuestreamError
from stream.iso_time import iso_seconds
from stream.kafka.client_types import KafkaConsumer, KafkaError, KafkaProducer
from stream.kafka.clients import kafka_python_config
from stream.kafka.reading import open_topics
from stream.kafka.rights import Right, check_rights
from stream.kafka.topics import changelog_topic, required_topics
from stream.settings import Settings
from stream.state.erasure import COMMAND_HEADER, ERASE, marker_key, read_marker

__all__ = ["erase"]

_SEND_TIMEOUT_S: Final = 30.0
_POLL_MS: Final = 250


class _ErasureReport(msgspec.Struct, frozen=True):
    """What became of a request, as ``--json`` prints it.

    ``asked`` maps partitions to the offsets of the request. ``kept_until`` maps topics to ISO times; None means that
    nothing sets an end.
    """

    user_id: str
    stored_as: str
    asked: dict[int, int]
    answered: list[int]
    silent: list[int]
    had_state_in: list[int]
    kept_until: dict[str, str | None]


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics", "Schema registry", "Privacy")
@user_argument
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the workers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def erase(user_id: str, timeout_s: float, as_json: bool, settings: Settings) -> None:
    """Forget user ID: state, score, and events from before now that may still come.

    The exit status is 1 if a partition has not answered in time. The request stays, and a worker that reads it later
    fulfils it.
    """
    report = _erase(settings, user_id, timeout_s, SystemClock())
    click.echo(msgspec.json.encode(report) if as_json else "\n".join(_words(report, settings)))
    if report.silent:
        raise ValuestreamError(
            f"{len(report.silent)} of {len(report.asked)} partitions have not answered within {timeout_s:g} s, expected"
            f" a worker at each; start one before {settings.events_topic} has let go of the request, then run this"
            " again"
        )


def _erase(settings: Settings, user_id: str, timeout_s: float, clock: Clock) -> _ErasureReport:
    check_rights(settings, _rights(settings))
    stored, topic = stored_id(settings, user_id), changelog_topic(settings)
    held = find(settings, user_id, everywhere=True)
    with closing(open_topics(settings, [topic], from_beginning=False)) as consumer:
        numbers = sorted(tp.partition for tp in consumer.assignment())
        asked = _ask(settings, user_id, numbers)
        answered = set(_answers(consumer, marker_key(stored).encode(), asked, timeout_s=timeout_s, clock=clock))
    return _ErasureReport(
        user_id=user_id,
        stored_as=stored,
        asked=asked,
        answered=sorted(answered),
        silent=sorted(set(asked) - answered),
        had_state_in=_partitions_with_state(held),
        kept_until={kept.topic: _kept_until(kept, clock) for kept in retentions(settings, _topics(settings))},
    )


def _topics(settings: Settings) -> list[str]:
    return [spec.name for spec in required_topics(settings, 0)]


def _rights(settings: Settings) -> list[Right]:
    return [
        Right("topic", settings.events_topic, "Write"),
        Right("topic", changelog_topic(settings), "Read"),
        Right("topic", settings.scores_topic, "Read"),
        *(Right("topic", topic, "DescribeConfigs") for topic in _topics(settings)),
    ]


def _partitions_with_state(all_held: Iterable[Held]) -> list[int]:
    return [held.partition for held in all_held if held.snapshot is not None]


def _ask(settings: Settings, user_id: str, partitions: Iterable[int]) -> dict[int, int]:
    """Write the request to these partitions of the events topic. Returns its acknowledged offset in each."""
    headers = [(COMMAND_HEADER, ERASE)]
    with closing(KafkaProducer(**kafka_python_config(settings), acks="all")) as producer:
        try:
            sent = {
                number: producer.send(settings.events_topic, key=user_id.encode(), headers=headers, partition=number)
                for number in partitions
            }
            return {number: future.get(_SEND_TIMEOUT_S).offset for number, future in sent.items()}
        except KafkaError as error:
            raise ValuestreamError(
                f"the request could not be written to {settings.events_topic} ({error}), expected every partition to"
                " take it; check the brokers, then run this again"
            ) from error


def _answers(
    consumer: KafkaConsumer, key: bytes, asked: dict[int, int], *, timeout_s: float, clock: Clock
) -> Iterator[int]:
    """Give each partition when its worker has written the user's marker, for this request or a later one.

    Ends when all have answered, or after ``timeout_s``.
    """
    silent, deadline = set(asked), clock.monotonic() + timeout_s
    while silent and clock.monotonic() < deadline:
        for tp, records in consumer.poll(timeout_ms=_POLL_MS).items():
            for record in records:
                if _answers_to(record, key, asked[tp.partition]) and tp.partition in silent:
                    silent.remove(tp.partition)
                    yield tp.partition


def _answers_to(record: Any, key: bytes, offset: int) -> bool:
    return bool(record.key == key and record.value and read_marker(record.value).offset >= offset)


def _kept_until(kept: Retention, clock: Clock) -> str | None:
    return None if kept.kept_ms is None else iso_seconds(int(clock.time() + kept.kept_ms / 1000))


# -- words ----------------------------------------------------------------------------------------------------


def _words(report: _ErasureReport, settings: Settings) -> Iterator[str]:
    """The report as lines of text."""
    user = printable(report.user_id)
    if report.had_state_in:
        places = ", ".join(map(str, report.had_state_in))
        yield f"user {user!r} was known in partition {places} of {changelog_topic(settings)}"
    else:
        yield f"nothing was known of user {user!r}; events from before now are dropped should they still come"
    yield f"asked in {settings.events_topic}: {', '.join(f'{p}:{offset}' for p, offset in report.asked.items())}"
    if report.silent:
        yield f"not answered yet: partition {', '.join(map(str, report.silent))}"
    else:
        yield f"erased: state and score, answered by {len(report.answered)} partitions"
    yield "kept until, at the latest (as the topics are set now)"
    for topic, content in _contents(settings).items():
        yield f"  {_shown_end(report.kept_until[topic]):<19}  {topic}: {content}"
    for topic in (settings.scores_topic, changelog_topic(settings)):
        if report.kept_until[topic] is None:
            yield (
                f"no bound is set on when {topic} drops old values;"
                f" kafka-configs.sh --alter --topic {topic} --add-config max.compaction.lag.ms=604800000 sets a week"
            )


def _contents(settings: Settings) -> dict[str, str]:
    return {
        settings.events_topic: "events as they were sent, and this request with the id as its key",
        settings.dlq_topic: "events that could not be used",
        settings.alerts_topic: "alerts",
        settings.scores_topic: "scores that the tombstone has replaced",
        changelog_topic(settings): "states that the tombstone has replaced",
    }


def _shown_end(until: str | None) -> str:
    return "no end" if until is None else shown_time(until)
