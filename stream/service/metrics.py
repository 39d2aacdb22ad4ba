"""Every metric of the service, each with what it means and what to do when it moves.

``python -m stream.service.metrics`` prints the table that ``docs/metrics.md`` holds.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

__all__ = ["OUTCOMES", "PREFIX", "SLO_SECONDS", "STAGES", "TRIGGERS", "MetricDoc", "Metrics"]

PREFIX: Final = "valuestream"

OUTCOMES: Final = ("applied", "duplicate", "replayed", "late", "dead_letter", "ignored", "erased", "erasure")
STAGES: Final = ("decode", "state", "sentiment", "features", "encode", "infer", "decide", "explain", "publish")
TRIGGERS: Final = ("event", "review", "silence")
_CHECKPOINTS: Final = ("ok", "failed")

#: The service level: an event is scored within this time of reaching the broker. It is a bucket edge, so
#: that the share of good events is exact; ``deploy/prometheus/alerts.yml`` names the same edge.
SLO_SECONDS: Final = 5.0


def _geometric(first: float, count: int, factor: float = 2.0) -> tuple[float, ...]:
    """Bucket edges that grow by one factor, so that the error of a quantile is the same share everywhere."""
    return tuple(first * factor**k for k in range(count))


_LATENCY: Final = _geometric(SLO_SECONDS / 2**12, 24)  # 1.2 ms to 2.8 h, with SLO_SECONDS itself as an edge
_STAGE: Final = _geometric(0.0001, 18)  # 0.1 ms to 13 s
_CHECKPOINT: Final = _geometric(0.001, 16)  # 1 ms to 33 s
_USERS: Final = _geometric(1, 13)  # 1 to 4,096 users
_TOKENS: Final = _geometric(16, 15)  # 16 to 262,144 tokens
_SHARE: Final = _geometric(1 / 128, 8)  # under 1 % to all of it

# The ``_created`` series that prometheus-client adds by default double the output and are read by nothing here.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it carries no annotations


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """What is told about one metric; ``name`` is the one that queries use."""

    name: str
    kind: str
    labels: tuple[str, ...]
    means: str
    act: str

    @property
    def help(self) -> str:
        """The help text on ``/metrics``."""
        return f"{self.means} What to do: {self.act}"


class Metrics:
    """All metrics of one worker, in a registry of their own.

    Label values come from closed sets or small bounded ones (partitions, rules), never from events. Series of
    a closed set exist from the start, so that a rate sees the first increment.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.docs: list[MetricDoc] = []
        self._ingestion()
        self._durability()
        self._scoring()
        self._sentiment()
        self._latency()
        self._versions()
        ProcessCollector(registry=self.registry)

    def render(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def forget_partition(self, partition: int) -> None:
        """Drop the series of a partition that another worker reads now; otherwise its last lag stays for ever."""
        self.consumer_lag.remove(str(partition))
        self.watermark_lag.remove(str(partition))

    def set_model(self, name: str, version: str, sha256: str, provider: str) -> None:
        """Publish the model that scores now; the one before disappears."""
        self.model_info.clear()
        self.model_info.labels(name=name, version=version, sha256=sha256, provider=provider).set(1)

    # Ingestion -----------------------------------------------------------------------------------------
    def _ingestion(self) -> None:
        self.events = self._counter(
            "events",
            ("outcome",),
            "Source records handled, by what became of them.",
            "if applied stops while lag grows, read the worker's log; replayed is normal for a moment after a restart;"
            " a rise of duplicate points at a retrying producer, of late at a delayed one (see --lateness-s).",
        )
        for outcome in OUTCOMES:
            self.events.labels(outcome=outcome)
        self.dead_letters = self._counter(
            "dead_letters",
            ("reason",),
            "Records sent to the dead-letter topic, by reason.",
            "read that topic's newest records, their headers say what was found; fix the producer or choose the"
            " envelope preset that fits, then replay them.",
        )
        self.records_bytes = self._counter(
            "records_bytes",
            (),
            "Bytes of source records handled.",
            "compare with the network and broker limits; if it rises faster than events, producers send larger events.",
        )
        self.consumer_lag = self._gauge(
            "consumer_lag",
            ("partition",),
            "Records of a partition that wait to be applied.",
            "if all partitions grow, add workers (up to one per partition); if one does, look for a hot key or a"
            " stuck worker.",
        )
        self.watermark_lag = self._gauge(
            "watermark_lag_seconds",
            ("partition",),
            "Wall clock minus the newest event time of a partition.",
            "without consumer lag the source itself is late or silent, so ask its owner; with lag, treat the lag.",
        )
        self.rebalances = self._counter(
            "rebalances",
            (),
            "Times that partitions were assigned anew.",
            "a few at deployments are normal; if it keeps rising, give workers stable instance ids, and raise"
            " --session-timeout-s if pauses outlast it.",
        )
        self.partitions_assigned = self._gauge(
            "partitions_assigned",
            (),
            "Partitions that this worker reads now.",
            "a steady 0 is a spare: there are more workers than partitions; 0 on all workers means that none is in"
            " the group, so check brokers and credentials.",
        )

    # State, recovery, checkpoints ----------------------------------------------------------------------
    def _durability(self) -> None:
        self.recovery_remaining = self._gauge(
            "recovery_remaining",
            (),
            "Changelog records still to be read before this worker serves.",
            "let it fall to 0; if it stands still, check the broker and that the changelog topic is compacted only.",
        )
        self.recovery_seconds = self._gauge(
            "recovery_seconds",
            (),
            "How long the last recovery took.",
            "if it nears --recovery-deadline-s, keep the data directory on a volume that survives restarts.",
        )
        self.state_users = self._gauge(
            "state_users",
            (),
            "Users held in the hot state.",
            "plan memory with it; a jump without more traffic means that user ids are not stable at the source.",
        )
        self.state_bytes = self._gauge(
            "state_bytes",
            (),
            "Memory of the hot state.",
            "if it nears the memory limit, add workers or raise the limit.",
        )
        self.dirty_users = self._gauge(
            "dirty_users",
            (),
            "Users changed since the last checkpoint.",
            "a saw-tooth is normal; if it only grows, checkpoints fail, so see valuestream_checkpoints_total.",
        )
        self.checkpoints = self._counter(
            "checkpoints",
            ("outcome",),
            "Checkpoints tried: state, outputs and offsets made durable.",
            "any failed one is explained in the log, most often brokers that do not acknowledge; events replay, none"
            " is lost.",
        )
        for outcome in _CHECKPOINTS:
            self.checkpoints.labels(outcome=outcome)
        self.checkpoint_seconds = self._histogram(
            "checkpoint_seconds",
            (),
            _CHECKPOINT,
            "How long a checkpoint takes.",
            "if it nears --checkpoint-interval-s, look at the brokers' produce latency, then lengthen the interval.",
        )
        self.commit_age = self._gauge(
            "commit_age_seconds",
            (),
            "Time since offsets were last committed.",
            "with lag above 0 it must stay near --checkpoint-interval-s; if it only grows, the worker is stuck and"
            " liveness restarts it.",
        )

    # Scoring -------------------------------------------------------------------------------------------
    def _scoring(self) -> None:
        self.queue_depth = self._gauge(
            "queue_depth",
            (),
            "Users whose score is stale and who wait for a new one.",
            "if it only grows, inference is too slow: add workers, threads or a GPU, or raise --refresh-interval-s.",
        )
        self.queue_oldest_wait = self._gauge(
            "queue_oldest_wait_seconds",
            (),
            "How long the longest waiting user has been in the queue.",
            "above a few refresh intervals treat it like queue depth; scores are late, ingestion is not held up.",
        )
        self.stage_seconds = self._histogram(
            "stage_seconds",
            ("stage",),
            _STAGE,
            "Time of one stage for one batch.",
            "the stage that grew is where to look: infer at the model and provider, publish at the brokers, state at"
            " memory.",
        )
        for stage in STAGES:
            self.stage_seconds.labels(stage=stage)
        self.batch_users = self._histogram(
            "batch_users",
            (),
            _USERS,
            "Users in one inference.",
            "near --batch-users-max with a growing queue, raise that maximum; near 1 there is simply little to do.",
        )
        self.batch_tokens = self._histogram(
            "batch_tokens",
            (),
            _TOKENS,
            "Tokens in one inference, padding included.",
            "it sets memory and time of an inference; if either is too high, lower --batch-users-max.",
        )
        self.padding_ratio = self._histogram(
            "padding_ratio",
            (),
            _SHARE,
            "Share of an inference's tokens that are padding.",
            "above one half the model works mostly on nothing, so lower --batch-users-max.",
        )
        self.scores = self._counter(
            "scores",
            ("trigger",),
            "Scores acknowledged by the brokers, by what asked for them.",
            "if it stops while events are applied, see valuestream_scoring_errors_total and the queue.",
        )
        for trigger in TRIGGERS:
            self.scores.labels(trigger=trigger)
        self.alerts = self._counter(
            "alerts",
            ("rule",),
            "Alerts sent, by rule.",
            "a jump is a change of the customers, of the data or of the model; compare with a deployment before acting"
            " on users.",
        )
        self.alerts_unexplained = self._counter(
            "alerts_unexplained",
            ("reason",),
            "Alerts sent without reasons: others waited for a score (load), too many at once (bound), or the model"
            " failed (error).",
            "load: add workers or raise --batch-users-max; bound: raise --explain-users-max; error: read the log.",
        )
        for why in ("load", "bound", "error"):
            self.alerts_unexplained.labels(reason=why)
        self.scoring_errors = self._counter(
            "scoring_errors",
            (),
            "Batches that could not be scored; their users stay queued.",
            "read the log for the error of the provider; if it repeats, go back to the model before.",
        )

    # Sentiment of reviews ------------------------------------------------------------------------------
    def _sentiment(self) -> None:
        self.reviews_scored = self._counter(
            "reviews_scored",
            (),
            "Reviews whose sentiment went into their user's state.",
            "if it stops while reviews are pending, see valuestream_sentiment_errors_total; 0 for ever means that no"
            " --sentiment-dir is set, or that no event carries a text.",
        )
        self.reviews_pending = self._gauge(
            "reviews_pending",
            (),
            "Reviews that wait for their sentiment; offsets are not committed past the oldest.",
            "if it stays near --reviews-pending-max, the sentiment model is too slow: add workers, threads or a GPU, or"
            " take a smaller model.",
        )
        self.reviews_waits = self._counter(
            "reviews_waits",
            (),
            "Times that ingestion waited because too many reviews were pending.",
            "some in a backlog are normal; if it keeps rising, treat it like pending reviews, or raise"
            " --reviews-pending-max where they come in bursts.",
        )
        self.sentiment_errors = self._counter(
            "sentiment_errors",
            (),
            "Batches of reviews whose sentiment could not be had; they stay pending.",
            "read the log for the error of the provider; if it repeats, go back to the sentiment model before.",
        )

    # Latency -------------------------------------------------------------------------------------------
    def _latency(self) -> None:
        self.event_to_score = self._histogram(
            "event_to_score_seconds",
            (),
            _LATENCY,
            "Event time until its score was acknowledged.",
            "if it rises and ingest to score does not, events reach the broker late: ask the source's owner.",
        )
        self.ingest_to_score = self._histogram(
            "ingest_to_score_seconds",
            (),
            _LATENCY,
            "Broker timestamp of an event until its score was acknowledged; the service level is measured here.",
            "see lag first, then queue depth, then stage seconds; the first that grew is the cause.",
        )

    # Versions ------------------------------------------------------------------------------------------
    def _versions(self) -> None:
        self.model_info = self._gauge(
            "model_info",
            ("name", "version", "sha256", "provider"),
            "Always 1; its labels say which model scores, and where it runs.",
            "all workers must show the same model and the provider you configured; restart those that do not.",
        )
        self.build_info = self._gauge(
            "build_info",
            ("version", "python"),
            "Always 1; its labels say which build runs.",
            "after a deployment all workers must show the same; restart those that do not.",
        )
        self.build_info.labels(version=version("valuestream"), python=platform.python_version()).set(1)

    def _doc(self, name: str, kind: str, labels: tuple[str, ...], means: str, act: str) -> str:
        full = f"{PREFIX}_{name}_total" if kind == "counter" else f"{PREFIX}_{name}"
        self.docs.append(MetricDoc(full, kind, labels, means, act))
        return self.docs[-1].help

    def _counter(self, name: str, labels: tuple[str, ...], means: str, act: str) -> Counter:
        text = self._doc(name, "counter", labels, means, act)
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _gauge(self, name: str, labels: tuple[str, ...], means: str, act: str) -> Gauge:
        text = self._doc(name, "gauge", labels, means, act)
        return Gauge(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, labels: tuple[str, ...], buckets: tuple[float, ...], means: str, act: str
    ) -> Histogram:
        text = self._doc(name, "histogram", labels, means, act)
        return Histogram(name, text, labels, namespace=PREFIX, registry=self.registry, buckets=buckets)


def table() -> str:
    """The Markdown page ``docs/metrics.md``, from the metrics themselves."""
    rows = [
        f"| `{d.name}` | {d.kind} | {', '.join(f'`{label}`' for label in d.labels)} | {d.means} | {d.act} |"
        for d in Metrics().docs
    ]
    head = [
        "# Metrics",
        "",
        "Served at `/metrics`. Made by `python -m stream.service.metrics > docs/metrics.md`; do not edit by hand.",
        "",
        "| metric | kind | labels | means | what to do |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(head + rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
