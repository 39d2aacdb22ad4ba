"""Tests of secrecy: even at debug level no log line and no HTTP answer shows a user, a payload or a password."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from stream.kafka.topic_admin import ensure_topics
from stream.kafka.topics import worker_rights
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess, track, wait_for
from tests.security.secured import PASSWORD, Secured

pytestmark = pytest.mark.broker

#: Every user id holds the one, every text of every event the other. No output may hold either.
USER, PAYLOAD = "usr4711x", "payload4711x"
NAMES = frozenset({"app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic"})
PAGES = ("/", "/metrics", "/health/live", "/health/ready", "/health/startup", "/health", "/docs", "/table", "/router")


def messages(now: float) -> list[Message]:
    """Events that lead to scores and alerts, late and future events, and dead letters for many reasons."""
    users = [f"{USER}-{i}" for i in range(12)]
    good = [
        (user.encode(), track(user, name, now - 600 + i, f"{PAYLOAD}-{user}-{i}", **properties(i)))
        for user in users
        for i, name in enumerate(("Product Viewed", "Product Added", "Order Completed", "Product Reviewed"))
    ]
    key = users[0].encode()
    late = [(key, track(users[0], "Product Viewed", now - 9 * 86_400, f"{PAYLOAD}-late"))]
    future = [(key, track(users[0], "Product Viewed", now + 9 * 86_400, f"{PAYLOAD}-future"))]
    order = properties(2)
    bad: list[Message] = [
        (key, f'{{"userId": "{users[1]}", {PAYLOAD}'.encode()),
        (key, f"\xff{PAYLOAD}".encode("latin-1")),
        (key, b"\x00\x00\x00\x00\x01" + PAYLOAD.encode()),
        (key, b'{"a":' * 5_000 + PAYLOAD.encode()),
        (key, json.dumps({"type": "track", "userId": users[1], "event": {"a": PAYLOAD}}).encode()),
        (key, track(users[1], "Order Completed", now, "m-1", **order | {"total": PAYLOAD})),
        (key, track(users[1], "Order Completed", now, "m-2", **order | {"currency": PAYLOAD})),
        (key, track(f"{USER}" * 200, "Product Viewed", now, "m-3")),
        (f"{USER}-other-key".encode(), track(users[2], "Product Viewed", now, "m-4")),
        (None, track(users[3], PAYLOAD, now, "m-5")),
        (key, None),
    ]
    return [*good, *late, *future, *bad]


def properties(i: int) -> dict[str, Any]:
    return {
        "order_id": f"{PAYLOAD}-order-{i}",
        "product_id": f"{PAYLOAD}-{i}",
        "category": PAYLOAD,
        "total": 19.5,
        "review_body": f"{PAYLOAD} is nice",
        "email": f"{USER}@example.com",
    }


@pytest.fixture
def settings(secured: Secured, topic_names: dict[str, Any], tmp_path: Path) -> Settings:
    """Settings of a worker that logs in over TLS with a password, with topics of its own."""
    how = {"sasl_mechanism": "SCRAM-SHA-256", "data_dir": tmp_path / "state"}
    settings = secured.as_user("worker", "SASL_SSL", **topic_names, **how)
    ensure_topics(secured.as_super_user(**topic_names), harness.PARTITIONS)
    secured.allow("worker", worker_rights(settings))
    return settings


def pages(worker: WorkerProcess) -> str:
    """The answers to all paths that are served, and to paths where stock Faust would show the state of users."""
    paths = [
        *PAGES,
        "/table/users",
        f"/table/users/{USER}-0",
        f"/users/{USER}-0",
        f"/x?user={USER}-0",
        "/../../etc/passwd",
    ]
    answers = [worker.get(path) for path in paths]
    assert {path for path, (status, _) in zip(paths, answers, strict=True) if status != 404} == {
        "/metrics",
        "/health/live",
        "/health/ready",
        "/health/startup",
    }
    return "\n".join(body for _, body in answers)


def test_run_with_every_kind_of_event_shows_no_user_payload_or_password(
    secured: Secured, settings: Settings, tmp_path: Path
) -> None:
    over_all = secured.as_super_user(**{name: getattr(settings, name) for name in settings.model_fields_set & NAMES})
    log = tmp_path / "log"
    env = {
        "VALUESTREAM_LOG_LEVEL": "debug",
        "VALUESTREAM_ALERT_CHURN_HIGH": "0.01",
        "VALUESTREAM_ALERT_CHURN_CLEAR": "0.005",
    }
    harness.produce(over_all, messages(time.time()))
    with secured.worker(settings, log, **env) as worker:
        worker.wait_ready()
        worker.wait_idle(over_all)
        wait_for("alerts", lambda: worker.metric("valuestream_alerts_total") > 0)
        assert worker.metric("valuestream_scores_total") >= 12
        assert worker.metric("valuestream_dead_letters_total") >= 8
        assert worker.metric('valuestream_events_total{outcome="late"}') == 1
        shown = pages(worker)
        # The way it fails must not show anything either, so take its rights away to end it.
        secured.forbid("worker", worker_rights(settings))
        harness.produce(over_all, messages(time.time() + 1))
        wait_for("the worker to end", lambda: worker.process.poll() is not None)
    written = log.read_text()
    assert "ready" in written
    for secret in (USER, PAYLOAD, PASSWORD):
        assert secret not in written
        assert secret not in shown
