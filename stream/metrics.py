"""Every metric of the service; what each means, and what to do when it moves, stands in ``metric_texts.py``.

``python -m stream.metrics`` prints the table that ``docs/metrics.md`` holds.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, TypeVar

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

from stream.clock import Clock
from stream.metric_help import TEXTS

__all__ = [
    "IGNORABLE_FIELDS",
    "OUTCOMES",
    "PREFIX",
    "SLO_SECONDS",
    "STAGES",
    "TRIGGERS",
    "MetricDoc",
    "Metrics",
    "Timed",
]

PREFIX: Final = "valuestream"

OUTCOMES: Final = ("applied", "duplicate", "replayed", "late", "dead_letter", "ignored", "erased", "erasure")
STAGES: Final = ("decode", "state", "sentiment", "features", "encode", "infer", "decide", "explain", "publish")
TRIGGERS: Final = ("event", "review", "silence")
#: Fields that an event can do without.
IGNORABLE_FIELDS: Final = (
    *("category", "currency", "event_id", "item", "order_id"),
    *("price", "products", "properties", "quantity", "text"),
)
_CHECKPOINTS: Final = ("ok", "failed")
_UNEXPLAINED: Final = ("load", "bound", "error")
#: Values that only a running worker knows: partitions, rules, reasons, versions.
_OPEN: Final = ()

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


_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
#: What Prometheus adds to a name.
_SUFFIX: Final[dict[type, str]] = {Counter: "_total"}


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
        # Ingestion
        self.events = self._add(Counter, "events", outcome=OUTCOMES)
        self.dead_letters = self._add(Counter, "dead_letters", reason=_OPEN)
        self.fields_ignored = self._add(Counter, "fields_ignored", field=IGNORABLE_FIELDS)
        self.records_bytes = self._add(Counter, "records_bytes")
        self.oauth_tokens = self._add(Counter, "oauth_tokens", outcome=("renewed", "failed"))
        self.schema_registry_errors = self._add(Counter, "schema_registry_errors")
        self.schema_registry_wait = self._add(Gauge, "schema_registry_wait_seconds")
        self.consumer_lag = self._add(Gauge, "consumer_lag", partition=_OPEN)
        self.watermark_lag = self._add(Gauge, "watermark_lag_seconds", partition=_OPEN)
        self.rebalances = self._add(Counter, "rebalances")
        self.partitions_assigned = self._add(Gauge, "partitions_assigned")
        # State, recovery, checkpoints
        self.recovery_remaining = self._add(Gauge, "recovery_remaining")
        self.recovery_seconds = self._add(Gauge, "recovery_seconds")
        self.state_users = self._add(Gauge, "state_users")
        self.state_bytes = self._add(Gauge, "state_bytes")
        self.dirty_users = self._add(Gauge, "dirty_users")
        self.checkpoints = self._add(Counter, "checkpoints", outcome=_CHECKPOINTS)
        self.checkpoint_seconds = self._add(Histogram, "checkpoint_seconds", _CHECKPOINT)
        self.commit_age = self._add(Gauge, "commit_age_seconds")
        # Scoring
        self.queue_depth = self._add(Gauge, "queue_depth")
        self.queue_oldest_wait = self._add(Gauge, "queue_oldest_wait_seconds")
        self.stage_seconds = self._add(Histogram, "stage_seconds", _STAGE, stage=STAGES)
        #: Stage → its series, found once: a look-up takes longer than to observe.
        self.stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}
        self.batch_users = self._add(Histogram, "batch_users", _USERS)
        self.batch_tokens = self._add(Histogram, "batch_tokens", _TOKENS)
        self.padding_ratio = self._add(Histogram, "padding_ratio", _SHARE)
        self.scores = self._add(Counter, "scores", trigger=TRIGGERS)
        self.alerts = self._add(Counter, "alerts", rule=_OPEN)
        self.alerts_unexplained = self._add(Counter, "alerts_unexplained", reason=_UNEXPLAINED)
        self.scoring_errors = self._add(Counter, "scoring_errors")
        # Sentiment of reviews
        self.reviews_scored = self._add(Counter, "reviews_scored")
        self.reviews_pending = self._add(Gauge, "reviews_pending")
        self.reviews_waits = self._add(Counter, "reviews_waits")
        self.sentiment_errors = self._add(Counter, "sentiment_errors")
        # Latency
        self.event_to_score = self._add(Histogram, "event_to_score_seconds", _LATENCY)
        self.ingest_to_score = self._add(Histogram, "ingest_to_score_seconds", _LATENCY)
        # Versions
        self.model_info = self._add(Gauge, "model_info", name=_OPEN, version=_OPEN, sha256=_OPEN, provider=_OPEN)
        self.build_info = self._add(Gauge, "build_info", version=_OPEN, python=_OPEN)
        self.build_info.labels(version=version("valuestream"), python=platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)

    def _add(
        self, kind: type[_Metric], name: str, buckets: tuple[float, ...] = (), /, **labels: tuple[str, ...]
    ) -> _Metric:
        """A metric with its text; labels come with the values whose series exist from the start."""
        doc = MetricDoc(f"{PREFIX}_{name}{_SUFFIX.get(kind, '')}", kind.__name__.lower(), tuple(labels), *TEXTS[name])
        self.docs.append(doc)
        shape: dict[str, Any] = {"buckets": buckets} if buckets else {}
        metric = kind(name, doc.help, doc.labels, namespace=PREFIX, registry=self.registry, **shape)
        for label, values in labels.items():
            for value in values:
                metric.labels(**{label: value})
        return metric

    def render(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4

    def timed(self, stage: str, clock: Clock) -> Timed:
        """Observes how long a ``with`` block of this stage takes."""
        return Timed(self.stages[stage], clock)

    def forget_partition(self, partition: int) -> None:
        """Drop the series of a partition that another worker reads now; otherwise its last lag stays for ever."""
        self.consumer_lag.remove(str(partition))
        self.watermark_lag.remove(str(partition))

    def set_model(self, name: str, version: str, sha256: str, provider: str) -> None:
        """Publish the model that scores now; the one before disappears."""
        self.model_info.clear()
        self.model_info.labels(name=name, version=version, sha256=sha256, provider=provider).set(1)


class Timed:
    """Observes in a histogram how many seconds a ``with`` block took. A block that raises is not observed."""

    __slots__ = ("_began", "_clock", "_seconds")

    def __init__(self, seconds: Histogram, clock: Clock) -> None:
        self._seconds, self._clock = seconds, clock

    def __enter__(self) -> None:
        self._began = self._clock.monotonic()

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._seconds.observe(self._clock.monotonic() - self._began)


def table() -> str:
    """The Markdown page ``docs/metrics.md``, from the metrics themselves."""
    rows = [
        f"| `{d.name}` | {d.kind} | {', '.join(f'`{label}`' for label in d.labels)} | {d.means} | {d.act} |"
        for d in Metrics().docs
    ]
    head = [
        "# Metrics",
        "",
        "Served at `/metrics`. Made by `python -m stream.metrics > docs/metrics.md`; do not edit by hand.",
        "",
        "| metric | kind | labels | means | what to do |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(head + rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
