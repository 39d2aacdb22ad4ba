"""Compare what two builds of valuestream write: ``python -m tests.same_bytes OLD_VALUESTREAM NEW_VALUESTREAM``.

Both arguments are paths of a ``valuestream`` command. A worker of each build reads the same recorded events, one after
the other, with an app id, a folder and output topics of its own. These must be the same to the byte:

- the last score of each user, and every other score that both builds made;
- the reasons of each alert that both builds explained;
- all dead letters, with their headers;
- the last state of each user, without the columns that scoring writes;
- the names of the metrics.

A change that is meant to change no behaviour can be checked with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from kafka import KafkaProducer

from stream.commands.broker.processes import free_port
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from stream.state.erasure import Erasures
from tests.broker import harness
from tests.contract.packed_users import without_scores
from tests.recorded_events import Recorded, recorded_events

__all__ = ["compare"]

#: A worker that has not read and scored everything after this long is not waited for any longer.
WORKER_S: Final = 240.0
#: All gauges must say "done" for this long, so that a user who waits for the refresh interval is not missed.
SETTLED_S: Final = 4.0
COMMAND_S: Final = 120.0
DIFFERENCES_MAX: Final = 5
EVENTS_TOPIC: Final = "same-bytes-events"
#: The refresh interval is short so that the last score of each user follows the last event at once.
SETTINGS: Final = {"refresh_interval_s": "0.2", "fx_rates": '{"GBP": 1.25}'}
#: How far in the future an event was, by the clock of the worker that read it.
FUTURE: Final = re.compile(rb"timestamp is \d+ s past")
SAMPLE: Final = re.compile(r"([a-z_]+)(?:\{(.*)\})? \S+")

Header = tuple[str, bytes]


@dataclass(frozen=True)
class Build:
    """One of the two builds: its command, and topics and folders apart from those of the other."""

    name: str
    command: Path
    folder: Path
    bootstrap_servers: str
    #: Settings of the worker that are no topics or folders, by name; the same for both builds.
    extra: Mapping[str, str]

    def run(self, *arguments: str) -> None:
        """Run one of its commands to the end; the command must succeed."""
        done = subprocess.run(
            [self.command, *arguments],
            env=self.env(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if done.returncode:
            raise click.ClickException(f"{self.name}: valuestream {' '.join(arguments)} failed:\n{done.stderr}")

    def env(self) -> dict[str, str]:
        """The environment of all its commands, without the caller's own settings and Python path."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("VALUESTREAM_") and k != "PYTHONPATH"}
        values = {**SETTINGS, **self.extra, **self.own()}
        return {**kept, **{f"VALUESTREAM_{name.upper()}": value for name, value in values.items()}}

    def own(self) -> dict[str, str]:
        """Settings that name its topics and its folder."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "app_id": f"same-bytes-{self.name}",
            "data_dir": str(self.folder / f"state-{self.name}"),
            "events_topic": EVENTS_TOPIC,
            **{f"{topic}_topic": f"{topic}-{self.name}" for topic in ("scores", "alerts", "dlq")},
        }


@dataclass(frozen=True)
class Output:
    """Everything that a build wrote and that is compared."""

    scores: Mapping[str, bytes | None]
    scores_by_id: Mapping[str, bytes]
    #: Of alerts with reasons only: under load an alert goes out without.
    reasons_by_alert: Mapping[str, bytes]
    #: Partition, key, value and headers of each, and how often it came.
    dead_letters: Counter[tuple[int, bytes | None, bytes | None, tuple[Header, ...]]]
    states: Mapping[str, bytes | None]
    metrics: frozenset[str]


# -- one build --------------------------------------------------------------------------------------------


def produce(bootstrap_servers: str, records: Iterable[Recorded]) -> None:
    """Send the records in order, with their own timestamps."""
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", max_in_flight_requests_per_connection=1)
    try:
        for record in records:
            ms = int(record.time * 1000)
            producer.send(EVENTS_TOPIC, record.value, record.key, list(record.headers), timestamp_ms=ms)
        producer.flush(COMMAND_S)
    finally:
        producer.close(COMMAND_S)


def output_of(build: Build, n_events: int) -> Output:
    """Let a worker of this build read and score all events, end it, and read what it wrote."""
    build.run("topics", "create", "--partitions", str(harness.PARTITIONS))
    log, port = build.folder / f"{build.name}.log", free_port()
    with log.open("w") as out:
        worker = subprocess.Popen(
            [build.command, "worker", "--http-port", str(port)],
            env=build.env(),
            cwd=build.folder,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        metrics = _metrics_when_settled(worker, port, n_events)
        worker.send_signal(signal.SIGTERM)
        if worker.wait(COMMAND_S):
            raise AssertionError(f"the worker ended with status {worker.returncode}")
    except AssertionError as error:
        raise click.ClickException(f"{build.name}: {error}\n{log.read_text()[-3_000:]}") from None
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    return _read(Settings(**build.own(), _env_file=None), metrics)


def _metrics_when_settled(worker: subprocess.Popen[bytes], port: int, n_events: int) -> str:
    """The metrics page, once every event is taken in and every user is scored, and has been for some seconds."""
    since: list[float] = []
    pages: list[str] = []

    def settled() -> bool:
        assert worker.poll() is None, f"the worker ended with status {worker.returncode}"
        page = harness.page(port, "/metrics")[1]
        if not _is_done(page, n_events):
            since.clear()
            return False
        since.append(time.monotonic())
        pages.append(page)
        return since[-1] - since[0] >= SETTLED_S

    harness.wait_for("the worker to take in and score everything", settled, WORKER_S)
    return pages[-1]


def _is_done(page: str, n_events: int) -> bool:
    """Whether this metrics page says that all events are taken in and nobody waits for a score."""

    def total(name: str) -> float:
        return harness.metric_sum(page, f"valuestream_{name}")

    waiting = total("consumer_lag") + total("queue_depth") + total("reviews_pending")
    n_partitions = page.count("\nvaluestream_consumer_lag{")
    return total("events_total{") == n_events and waiting == 0 and n_partitions == harness.PARTITIONS


def _read(settings: Settings, metrics: str) -> Output:
    """What a build wrote, from its topics."""
    scores = harness.read_topic(settings, settings.scores_topic)
    alerts = [json.loads(r.value) for r in harness.read_topic(settings, settings.alerts_topic)]
    states = harness.last_values(harness.read_topic(settings, changelog_topic(settings)))
    dead = harness.read_topic(settings, settings.dlq_topic)
    return Output(
        scores=harness.last_values(scores),
        scores_by_id={json.loads(r.value)["score_id"]: r.value for r in scores if r.value is not None},
        reasons_by_alert={
            alert["alert_id"]: json.dumps(alert["reasons"]).encode() for alert in alerts if alert["reasons"]
        },
        # Dead letters of one fetch come before those that are late, so their order depends on where fetches end.
        dead_letters=_counted(dead),
        states={
            key: value if value is None or Erasures.is_marker(key) else without_scores(value)
            for key, value in states.items()
        },
        metrics=frozenset(_metric_names(metrics)),
    )


#: Headers that say where a record stood.
_PLACE = ("valuestream.source.offset", "valuestream.source.timestamp")


def _counted(dead: Iterable[Any]) -> Counter[tuple[int, bytes | None, bytes | None, tuple[Header, ...]]]:
    """Dead letters, each with how often it came. A late event counts once, wherever it stood.

    A repeat of a late event is a duplicate if one fetch brought both, and late as well if two fetches did. So how many
    repeats are dead letters depends on where fetches end, with the same build as well.
    """
    counted: Counter[tuple[int, bytes | None, bytes | None, tuple[Header, ...]]] = Counter()
    for r in dead:
        headers = _without_age(r.headers)
        if ("valuestream.error.reason", b"late") in headers:
            headers = tuple(header for header in headers if header[0] not in _PLACE)
            counted[(r.partition, r.key, r.value, headers)] = 1
        else:
            counted[(r.partition, r.key, r.value, headers)] += 1
    return counted


def _without_age(headers: Sequence[Header]) -> tuple[Header, ...]:
    """The headers of a dead letter, without the one number in them that depends on when the event was read."""
    return tuple((name, FUTURE.sub(b"timestamp is N s past", content or b"")) for name, content in headers)


def _metric_names(page: str) -> Iterator[str]:
    """Names of the series, each with the names of its labels."""
    for line in page.splitlines():
        if found := SAMPLE.fullmatch(line):
            yield f"{found[1]}{{{', '.join(re.findall(r'([a-z0-9_]+)=', found[2] or ''))}}}"


# -- the comparison ---------------------------------------------------------------------------------------


def compare(old: Output, new: Output) -> list[str]:
    """A line for every difference."""
    return [
        *_differences("last score of", old.scores, new.scores),
        *_differences("score", *_in_both(old.scores_by_id, new.scores_by_id)),
        *_differences("reasons of alert", *_in_both(old.reasons_by_alert, new.reasons_by_alert)),
        *(f"dead letter only from old, {n} times: {letter!r:.600}" for letter, n in _more(old, new)),
        *(f"dead letter only from new, {n} times: {letter!r:.600}" for letter, n in _more(new, old)),
        *_differences("state of", old.states, new.states),
        *(f"metric only in old: {name}" for name in sorted(old.metrics - new.metrics)),
        *(f"metric only in new: {name}" for name in sorted(new.metrics - old.metrics)),
    ]


def _in_both(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What both made: which scores a worker makes on the way depends on the machine's speed."""
    both = old.keys() & new.keys()
    return {key: old[key] for key in both}, {key: new[key] for key in both}


def _more(one: Output, other: Output) -> Iterable[tuple[Any, int]]:
    return (one.dead_letters - other.dead_letters).items()


def _differences(what: str, old: Mapping[str, bytes | None], new: Mapping[str, bytes | None]) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        if key not in old or key not in new:
            yield f"{what} {key!r} is only in {'old' if key in old else 'new'}"
        elif old[key] != new[key]:
            yield f"{what} {key!r} differs{_first_difference(old[key], new[key])}"


def _first_difference(old: bytes | None, new: bytes | None) -> str:
    if old is None or new is None:
        return f": old is {old!r:.300}, new is {new!r:.300}"
    at = next((i for i, (x, y) in enumerate(zip(old, new, strict=False)) if x != y), min(len(old), len(new)))
    around = slice(max(0, at - 60), at + 60)
    return f" at byte {at} of {len(old)} and {len(new)}: old {old[around]!r}, new {new[around]!r}"


def counts(output: Output) -> str:
    """How much was compared, in words."""
    states = output.states
    n_markers = sum(map(Erasures.is_marker, states))
    n_users = sum(value is not None for value in states.values()) - n_markers
    n_scored = sum(value is not None for value in output.scores.values())
    return (
        f"{n_scored} users with a score ({len(output.scores_by_id)} scores,"
        f" {len(output.reasons_by_alert)} explained alerts),"
        f" {len(output.scores) - n_scored} with a score tombstone, {n_users} users with a state,"
        f" {n_markers} erasure markers, {output.dead_letters.total()} dead letters, {len(output.metrics)} metric names"
    )


def report(old: Output, new: Output) -> bool:
    """Print how much was compared and the first differences; whether all is the same."""
    for name, output in (("old", old), ("new", new)):
        click.echo(f"{name}: {counts(output)}")
    n_scores, n_alerts = (
        len(one.keys() & other.keys())
        for one, other in ((old.scores_by_id, new.scores_by_id), (old.reasons_by_alert, new.reasons_by_alert))
    )
    click.echo(f"compared: {n_scores} scores and {n_alerts} explained alerts that both made, and all of the rest")
    differences = compare(old, new)
    for line in differences[:DIFFERENCES_MAX]:
        click.echo(line)
    click.echo(f"{len(differences)} differences" if differences else "same")
    return not differences


@click.command()
@click.argument("old", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--events", "n_events", default=20_000, show_default=True, help="Records in the recorded topic.")
@click.option("--users", default=500, show_default=True, help="Users who send them.")
@click.option("--seed", default=15, show_default=True, help="Seed of the recorded events.")
@click.option("--set", "extra", multiple=True, metavar="NAME=VALUE", help="A setting of both workers.")
def main(old: Path, new: Path, n_events: int, users: int, seed: int, extra: tuple[str, ...]) -> None:
    """Say whether the commands OLD and NEW write the same bytes; exit status 1 where they do not."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # An end from outside ends worker and broker as well.
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="valuestream-same-bytes-") as made:
        folder = Path(made)
        settings = {name.lower(): value for name, _, value in (one.partition("=") for one in extra)}
        builds = [
            Build(name, command.absolute(), folder, f"127.0.0.1:{port}", settings)
            for name, command in (("old", old), ("new", new))
        ]
        starter, broker_dir = builds[1], str(folder / "broker")
        starter.run("broker", "start", "--dir", broker_dir, "--port", str(port))
        try:
            starter.run("topics", "create", "--partitions", str(harness.PARTITIONS))
            records = list(recorded_events(n_events, users, seed, end=int(time.time())))
            produce(starter.bootstrap_servers, records)
            outputs = [output_of(build, len(records)) for build in builds]
        finally:
            starter.run("broker", "stop", "--dir", broker_dir)
    sys.exit(not report(*outputs))


if __name__ == "__main__":
    main()
