"""Tests of reviews: no sentiment is lost or counted twice if workers end while reviews wait."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from stream.score.sentiment import Sentiment
from tests.broker import harness
from tests.broker.harness import Message, WorkerProcess, produce, track, wait_for
from tests.broker.models import WORDS, write_scoring_model, write_sentiment_model
from tests.broker.undisturbed import assert_as_undisturbed

pytestmark = pytest.mark.broker

#: Some 20 ms for 8 texts. So reviews wait for seconds, but the events behind them must not.
LOOPS = 10_000


def reviewers(n: int, users: int) -> list[Message]:
    """Events of the last minutes. Two in five are reviews, and some are sent twice."""
    rng = random.Random(4)
    start = time.time() - 600
    messages: list[Message] = []
    for i in range(n):
        user = f"user-{rng.randrange(users)}"
        text = " ".join(rng.choices(list(WORDS), k=rng.randrange(12)))
        about = {"review_body": text, "rating": 3} if rng.random() < 0.4 else {}
        name = "Product Reviewed" if about else "Product Viewed"
        value = track(user, name, round(start + i / 10, 3), f"m-{i}", product_id=f"p{i % 50}", **about)
        messages.append((user.encode(), value))
        if rng.random() < 0.1:
            messages.append(rng.choice(messages[-20:]))
    return messages


def test_sentiments_after_kill_9_and_sigterm_are_those_of_an_undisturbed_run(make_settings, tmp_path: Path) -> None:
    settings = make_settings(instance_id="w")
    model, texts = write_scoring_model(tmp_path / "model"), write_sentiment_model(tmp_path / "sentiment", LOOPS)
    env = {"VALUESTREAM_MODEL_DIR": str(model), "VALUESTREAM_SENTIMENT_DIR": str(texts)}
    produce(settings, reviewers(2_500, users=200))
    expected = harness.oracle(settings, model, Sentiment(texts))
    n_events = sum(int(state.users["n_events"].sum()) for state in expected.partitions.values())
    n_reviews = sum(int(state.users["reviews"].sum()) for state in expected.partitions.values())
    with WorkerProcess(settings, tmp_path / "log", VALUESTREAM_CHECKPOINT_INTERVAL_S="0.2", **env) as worker:
        worker.wait_ready()
        wait_for(
            "all events to be applied", lambda: worker.metric('valuestream_events_total{outcome="applied"}') == n_events
        )
        wait_for("some sentiments to be durable", lambda: sum(harness.committed(settings).values()) > 100)
        worker.kill()
    # All events are in the state, but the committed offsets are before the reviews that still wait.
    assert sum(harness.committed(settings).values()) < sum(harness.end_offsets(settings).values())
    limits = {"VALUESTREAM_REVIEWS_PENDING_MAX": "40", "VALUESTREAM_FETCH_RECORDS_MAX": "100"}
    with WorkerProcess(settings, tmp_path / "log", **env, **limits) as worker:
        worker.wait_ready()
        wait_for("ingestion to wait at the limit", lambda: worker.metric("valuestream_reviews_waits_total") > 3)
        assert worker.terminate() == 0, worker.log()
    assert sum(harness.committed(settings).values()) < sum(harness.end_offsets(settings).values())
    with WorkerProcess(settings, tmp_path / "log", **env) as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert 0 < worker.metric("valuestream_reviews_scored_total") < n_reviews
        time.sleep(1.5)
        worker.wait_idle(settings)
        assert worker.terminate() == 0
    assert_as_undisturbed(settings, expected)
