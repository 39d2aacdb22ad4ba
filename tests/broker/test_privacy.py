"""Tests of privacy on a real Kafka: ``user erase``, ``user export``, pseudonyms and segments."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from kafka import KafkaProducer

from stream.commands.segments.command import segments
from stream.commands.user.command import user
from stream.contract.score import Churn
from stream.decode.pseudonyms import pseudonyms_of
from stream.errors import ValuestreamError
from stream.kafka.clients import kafka_python_config
from stream.kafka.topics import changelog_topic
from stream.score.decide import encode_json
from stream.settings import Settings
from stream.state.erasure import Erasures, Marker, marker_key
from tests.broker import harness
from tests.broker.examples import score_of
from tests.broker.harness import PARTITIONS, WorkerProcess, partition_of, produce, wait_for
from tests.broker.test_user_show import history, packed
from tests.broker.undisturbed import shoppers, states_of
from tests.contract.packed_users import without_scores

pytestmark = pytest.mark.broker
KEY = bytes(range(7, 39)).hex()


def run(settings: Settings, command: str, user_id: str, *more: str, **env: str) -> Result:
    """Run a ``user`` command. The exception of its result is the one line that a person would see."""
    named = ("bootstrap_servers", "app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic")
    flags = [part for name in named for part in (f"--{name.replace('_', '-')}", getattr(settings, name))]
    return CliRunner().invoke(user, [command, *flags, user_id, *more], env=env)


def answer(settings: Settings, command: str, user_id: str, *more: str, **env: str) -> dict[str, Any]:
    ended = run(settings, command, user_id, *more, **env)
    assert ended.exception is None, ended.exception
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def put(settings: Settings, topic: str, key: str, value: bytes | None, partition: int, **more: Any) -> None:
    with contextlib.closing(KafkaProducer(**kafka_python_config(settings))) as producer:
        producer.send(topic, key=key.encode(), value=value, partition=partition, **more).get(30)


def test_erased_user_stays_gone_after_kill_9_and_a_replay_and_no_other_user_changes(
    settings: Settings, tmp_path: Path
) -> None:
    messages = shoppers(2_000, users=60)  # Each user has so few events that all repeats are recognized.
    produce(settings, messages)
    with WorkerProcess(settings, tmp_path / "first.log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        before = states_of(settings)
        asked = run(settings, "erase", "user-7", "--timeout", "0")
        assert isinstance(asked.exception, ValuestreamError)
        assert "4 of 4 partitions have not answered" in str(asked.exception)
        wait_for("the erasure to be taken in", lambda: worker.metric('valuestream_events_total{outcome="erasure"}'))
        worker.kill()
    produce(settings, messages)
    with WorkerProcess(settings, tmp_path / "second.log") as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.metric('valuestream_events_total{outcome="erased"}') > 0
        again = answer(settings, "erase", "user-7", "--json")
        assert (again["answered"], again["silent"], again["had_state_in"]) == ([0, 1, 2, 3], [], [])
        worker.wait_idle(settings)
        assert worker.terminate() == 0
        log = worker.log()
    assert "user-7" not in log
    records = harness.read_topic(settings, changelog_topic(settings))
    assert harness.last_values(records)["user-7"] is None
    assert sum(Erasures.is_marker(r.key.decode()) for r in records) >= PARTITIONS
    scores = harness.last_values(harness.read_topic(settings, settings.scores_topic))
    assert scores["user-7"] is None
    left = {user: value for user, value in before.items() if user != "user-7"}
    now = harness.last_values(r for r in records if r.value is not None and not Erasures.is_marker(r.key.decode()))
    assert {user: without_scores(value) for user, value in now.items() if user != "user-7"} == left
    assert all(scores[user] is not None for user in left)


def test_erase_without_a_worker_says_so_and_its_request_stays(settings: Settings) -> None:
    asked = run(settings, "erase", "nobody", "--timeout", "0")
    assert isinstance(asked.exception, ValuestreamError)
    assert "nothing was known of user 'nobody'" in asked.stdout
    assert "not answered yet: partition 0, 1, 2, 3" in asked.stdout
    assert "scores that the tombstone has replaced" in asked.stdout
    requests = harness.read_topic(settings, settings.events_topic)
    assert sorted(r.partition for r in requests) == list(range(PARTITIONS))
    assert {(r.key, r.value, tuple(r.headers)) for r in requests} == {
        (b"nobody", None, (("valuestream.command", b"erase"),))
    }


def test_export_holds_everything_about_the_user_and_nothing_about_others(settings: Settings) -> None:
    at = partition_of("ann")
    put(settings, changelog_topic(settings), "ann", packed(history(70)), at)
    put(settings, settings.scores_topic, "ann", encode_json(score_of("ann", 2.0)), at)
    for who in ("ann", "bob"):
        put(settings, settings.alerts_topic, who, json.dumps({"alert": who}).encode(), at)
        put(settings, settings.dlq_topic, who, b"\xff" + who.encode(), at, headers=[("why", b"bad")])
        put(settings, settings.events_topic, who, harness.track(who, "Product Viewed", 1_735_732_800, f"m-{who}"), at)
    put(settings, settings.events_topic, "session-9", harness.track("ann", "Product Viewed", 1_735_732_801, "m2"), at)
    found = answer(settings, "export", "ann")
    assert (found["schema"], found["user_id"], found["stored_as"]) == ("valuestream.user.v1", "ann", "ann")
    (state,) = found["states"]
    assert (state["events"], len(state["history"]), state["event_hashes"]) == (70, 64, 64)
    assert (state["topic"], state["partition"], state["offset"]) == (changelog_topic(settings), at, 0)
    assert [score["value"]["ltv"]["expected"] for score in found["scores"]] == [2.0]
    assert [alert["value"] for alert in found["alerts"]] == [{"alert": "ann"}]
    (letter,) = found["dead_letters"]
    assert (letter["value"], letter["headers"]) == ({"base64": "/2Fubg=="}, [["why", "bad"]])
    (events,) = found["events"]
    assert events["all_read"]
    assert [event["value"]["messageId"] for event in events["records"]] == ["m-ann", "m2"]
    assert {kept["topic"]: kept["days_at_most"] for kept in found["kept"]} == {
        settings.events_topic: 14.0,
        settings.alerts_topic: 37.0,
        settings.dlq_topic: 37.0,
        settings.scores_topic: 14.0,
        changelog_topic(settings): 14.0,
    }
    assert "bob" not in json.dumps(found)
    few = answer(settings, "export", "ann", "--events-max", "1")["events"][0]
    assert (few["all_read"], len(few["records"])) == (False, 1)
    assert answer(settings, "export", "ann", "--no-events")["events"] is None


def test_export_of_an_erased_user_holds_the_erasure(settings: Settings) -> None:
    at = partition_of("ann")
    put(settings, changelog_topic(settings), "ann", packed(history(3)), at)
    put(settings, changelog_topic(settings), marker_key("ann"), Marker(1_735_732_800, 7).packed(), at)
    put(settings, changelog_topic(settings), "ann", None, at)
    found = answer(settings, "export", "ann", "--no-events")
    assert (found["states"], found["scores"]) == ([], [])
    assert [(e["events_dropped_up_to"], e["request_offset"]) for e in found["erasures"]] == [
        ("2025-01-01T12:00:00Z", 7)
    ]


def test_pseudonymous_user_is_found_by_user_id_and_key(settings: Settings) -> None:
    pseudonyms = pseudonyms_of(KEY, "7")
    assert pseudonyms is not None
    stored, at = pseudonyms.pseudonym_of("ann"), partition_of("ann")
    put(settings, changelog_topic(settings), stored, packed(history(5, stored)), at)
    put(settings, settings.scores_topic, stored, encode_json(score_of(stored, 2.0)), at)
    key = {"VALUESTREAM_PSEUDONYM_KEY": KEY, "VALUESTREAM_PSEUDONYM_KEY_ID": "7"}
    assert answer(settings, "show", "ann", "--json", **key)["events"] == 5
    exported = answer(settings, "export", "ann", "--no-events", **key)
    assert (exported["stored_as"], len(exported["states"]), len(exported["scores"])) == (stored, 1, 1)
    assert isinstance(run(settings, "show", "ann").exception, ValuestreamError)


def test_segments_count_each_user_once_by_the_last_score_without_erased_users(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.commands.segments.private_counts._laplace", lambda scale: Noiseless())
    high, low = score_of("ann", 2.0), msgspec.structs.replace(score_of("ann", 2.0), churn=Churn(0.1, "low", 14))
    for who, last in (("ann", high), ("bob", low), ("eve", None)):
        for score in (high, last):
            put(settings, settings.scores_topic, who, encode_json(score) if score else None, partition_of(who))
    flags = ["--bootstrap-servers", settings.bootstrap_servers, "--scores-topic", settings.scores_topic]
    found = json.loads(CliRunner().invoke(segments, [*flags, "--epsilon", "0.5"], catch_exceptions=False).stdout)
    assert found["churn_band"]["counts"] == {"low": 1, "medium": 0, "high": 1}
    assert (found["churn_band"]["epsilon"], found["churn_band"]["sensitivity"]) == (0.5, 1)


class Noiseless:
    """A mechanism that adds no noise, so that the test sees its input."""

    def __call__(self, counts: list[int]) -> list[int]:
        return counts

    def map(self, distance: int) -> float:
        return 0.5 * distance


def test_worker_with_a_pseudonym_key_writes_no_user_id_and_erases_by_pseudonym(
    settings: Settings, tmp_path: Path
) -> None:
    pseudonyms = pseudonyms_of(KEY, "7")
    assert pseudonyms is not None
    key = {"VALUESTREAM_PSEUDONYM_KEY": KEY, "VALUESTREAM_PSEUDONYM_KEY_ID": "7"}
    produce(settings, shoppers(400, users=20))
    with WorkerProcess(settings, tmp_path / "worker.log", **key) as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        erased = answer(settings, "erase", "user-7", "--json", **key)
        assert len(erased["answered"]) == PARTITIONS
        assert worker.terminate() == 0
    written = [r for t in (changelog_topic(settings), settings.scores_topic) for r in harness.read_topic(settings, t)]
    assert not [r for r in written if b"user-" in (r.key or b"") + (r.value or b"")]
    states = harness.last_values(r for r in written if r.topic == changelog_topic(settings))
    assert states[pseudonyms.pseudonym_of("user-7")] is None
    assert {pseudonyms.pseudonym_of(f"user-{i}") for i in range(20)} == {u for u in states if not Erasures.is_marker(u)}
    with WorkerProcess(settings, tmp_path / "other.log") as worker:
        wait_for("the worker without the key to end", lambda: worker.process.poll() is not None)
        assert worker.process.returncode != 0
        assert "the state holds pseudonyms of key id '7', this worker has user ids as they are" in worker.log()
