"""The demo reads from the metrics of a worker what the worker has counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.commands.broker.processes import free_port
from stream.commands.demo.scrape import Reading, parse, quantile, rate, ready, scrape, since
from stream.metrics import OUTCOMES, Metrics


def read(metrics: Metrics, at: float = 0.0) -> Reading:
    return parse(metrics.render()[0].decode(), at)


def observed(*seconds: float) -> Reading:
    metrics = Metrics()
    for value in seconds:
        metrics.ingest_to_score.observe(value)
    return read(metrics)


def test_every_outcome_but_replayed_is_processed_or_a_dead_letter() -> None:
    metrics = Metrics()
    for i, outcome in enumerate(OUTCOMES):
        metrics.events.labels(outcome).inc(10**i)
    count = {outcome: 10**i for i, outcome in enumerate(OUTCOMES)}
    reading = read(metrics)
    assert reading.processed == sum(
        count[outcome] for outcome in ("applied", "duplicate", "ignored", "erased", "erasure")
    )
    assert reading.dead_letters == count["late"] + count["dead_letter"]
    assert reading.handled == sum(count.values()) - count["replayed"]


def test_counts_and_gauges_are_summed_over_their_series() -> None:
    metrics = Metrics()
    metrics.scores.labels("event").inc(3)
    metrics.scores.labels("silence").inc(4)
    metrics.alerts.labels("churn_high").inc(2)
    metrics.consumer_lag.labels("0").set(5)
    metrics.consumer_lag.labels("1").set(6)
    metrics.queue_depth.set(8)
    metrics.state_users.set(9)
    reading = read(metrics, at=7.5)
    assert (reading.scores, reading.alerts, reading.lag) == (7, 2, 11)
    assert (reading.queued, reading.users, reading.at) == (8, 9, 7.5)


@given(st.lists(st.floats(1e-4, 5_000), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantile_is_in_the_bucket_of_the_true_one(seconds: list[float], q: float) -> None:
    buckets = observed(*seconds).latency
    true = float(np.quantile(seconds, q, method="inverted_cdf"))
    edges = [0.0, *sorted(buckets)]
    upper = next(edge for edge in edges if edge >= true)
    lower = edges[edges.index(upper) - 1]
    found = quantile(q, buckets)
    assert found is not None
    assert lower <= found <= upper


def test_quantile_beyond_the_last_finite_edge_is_that_edge() -> None:
    buckets = observed(1e9).latency
    assert quantile(0.5, buckets) == max(edge for edge in buckets if not math.isinf(edge))


def test_quantile_of_nothing_is_none() -> None:
    assert quantile(0.5, observed().latency) is None
    assert quantile(0.5, {}) is None


def test_observations_since_a_reading_leave_out_earlier_ones() -> None:
    old, new = observed(0.01, 0.01, 9.0), observed(0.01, 0.01, 9.0, 0.3)
    between = since(new.latency, old.latency)
    assert between[math.inf] == 1
    found = quantile(0.5, between)
    assert found is not None and 0.15 < found < 0.32


def test_rate_is_the_increase_over_the_span_and_0_for_a_single_reading() -> None:
    first = replace(observed(), at=10.0, scores=100)
    last = replace(first, at=15.0, scores=600)
    assert rate([first, replace(first, at=11.0), last], "scores") == pytest.approx(100)
    assert rate([first], "scores") == 0


def test_worker_that_does_not_listen_is_not_ready_and_has_no_reading() -> None:
    port = free_port()
    assert not ready(port)
    assert scrape(port, at=0.0) is None
