"""Tests of metrics: their names, labels and buckets, and the page that describes them."""

from __future__ import annotations

import itertools
import re

import pytest
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families

from stream.clock import ManualClock
from stream.metric_help import TEXTS
from stream.metrics import IGNORABLE_FIELDS, OUTCOMES, SLO_SECONDS, STAGES, MetricDoc, Metrics, Timed, table

#: Labels that would make one series per customer or event.
OPEN_LABELS = {"user", "user_id", "event_id", "message_id", "score_id", "key", "offset", "topic", "error"}


def histograms(metrics: Metrics) -> list[Histogram]:
    return [value for value in vars(metrics).values() if isinstance(value, Histogram)]


@pytest.mark.parametrize("doc", Metrics().docs, ids=lambda doc: doc.name)
def test_every_metric_says_what_it_means_and_what_to_do(doc: MetricDoc) -> None:
    means, act = doc.help.split(" What to do: ")
    assert re.fullmatch(r"[A-Z][^|]{15,}\.", means)
    assert re.fullmatch(r"[a-z0-9][^|]{25,}\.", act)


@pytest.mark.parametrize("doc", Metrics().docs, ids=lambda doc: doc.name)
def test_every_metric_name_follows_the_conventions(doc: MetricDoc) -> None:
    assert re.fullmatch(r"valuestream_[a-z][a-z_]*", doc.name)
    assert doc.name.endswith("_total") == (doc.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", doc.name)
    assert not OPEN_LABELS & set(doc.labels)


def test_docs_describe_exactly_the_metrics_that_are_served() -> None:
    metrics = Metrics()
    served = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(metrics.render()[0].decode())
        if not family.name.startswith("process_")
    }
    assert served == {doc.name for doc in metrics.docs}
    assert len(metrics.docs) == len(TEXTS)


def test_series_of_closed_sets_are_served_before_the_first_event() -> None:
    text = Metrics().render()[0].decode()
    for outcome in OUTCOMES:
        assert f'valuestream_events_total{{outcome="{outcome}"}} 0.0' in text
    for field in IGNORABLE_FIELDS:
        assert f'valuestream_fields_ignored_total{{field="{field}"}} 0.0' in text
    for stage in STAGES:
        assert f'valuestream_stage_seconds_count{{stage="{stage}"}} 0.0' in text


def test_no_created_series_are_served() -> None:
    assert "_created" not in Metrics().render()[0].decode()


def test_two_workers_in_one_process_do_not_share_counts() -> None:
    one, other = Metrics(), Metrics()
    one.events.labels(outcome="applied").inc(3)
    assert b'outcome="applied"} 3.0' in one.render()[0]
    assert b'outcome="applied"} 0.0' in other.render()[0]


def test_a_partition_that_moved_away_is_no_longer_served() -> None:
    metrics = Metrics()
    for partition in ("0", "1"):
        metrics.consumer_lag.labels(partition=partition).set(9)
        metrics.watermark_lag.labels(partition=partition).set(9)
    metrics.forget_partition(1)
    text = metrics.render()[0].decode()
    assert 'partition="0"' in text
    assert 'partition="1"' not in text


def test_forgetting_a_partition_never_seen_changes_nothing() -> None:
    metrics = Metrics()
    metrics.consumer_lag.labels(partition="0").set(9)
    metrics.forget_partition(7)
    assert b'consumer_lag{partition="0"} 9.0' in metrics.render()[0]


def test_only_the_model_that_scores_now_is_served() -> None:
    metrics = Metrics()
    metrics.set_model("demo", "1", "aa", "cpu")
    metrics.set_model("demo", "2", "bb", "cpu")
    lines = [x for x in metrics.render()[0].decode().splitlines() if x.startswith("valuestream_model_info{")]
    assert lines == ['valuestream_model_info{name="demo",provider="cpu",sha256="bb",version="2"} 1.0']


@pytest.mark.parametrize("histogram", histograms(Metrics()), ids=lambda h: h._name)
def test_bucket_edges_grow_by_one_factor(histogram: Histogram) -> None:
    edges = histogram._upper_bounds[:-1]
    assert {round(b / a, 9) for a, b in itertools.pairwise(edges)} == {2.0}


def test_the_service_level_is_a_bucket_edge() -> None:
    metrics = Metrics()
    assert SLO_SECONDS in metrics.ingest_to_score._upper_bounds
    metrics.ingest_to_score.observe(SLO_SECONDS)
    assert f'ingest_to_score_seconds_bucket{{le="{SLO_SECONDS}"}} 1.0' in metrics.render()[0].decode()


def test_the_content_type_is_the_one_of_prometheus_text() -> None:
    assert Metrics().render()[1].startswith("text/plain; version=0.0.4")


def test_committed_page_has_a_row_for_each_metric(request: pytest.FixtureRequest) -> None:
    page = request.config.rootpath / "docs" / "metrics.md"
    assert page.read_text() == table(), "run: python -m stream.metrics > docs/metrics.md"


def test_block_is_timed_by_the_clock_unless_it_raises() -> None:
    metrics, clock = Metrics(), ManualClock()
    seconds = metrics.stages["decode"]
    with Timed(seconds, clock):
        clock.advance(seconds=0.25)
    with pytest.raises(KeyError), Timed(seconds, clock):
        clock.advance(seconds=8)
        raise KeyError
    sample = metrics.registry.get_sample_value
    assert sample("valuestream_stage_seconds_count", {"stage": "decode"}) == 1
    assert sample("valuestream_stage_seconds_sum", {"stage": "decode"}) == 0.25
