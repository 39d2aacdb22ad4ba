"""Build: makes the parts of a worker from its settings, and puts them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from stream.assignment import Assignment
from stream.checkpoint.lease import Lease, MembershipLease
from stream.checkpoint.partition import Partition
from stream.checkpoint.pending_reviews import Reviews, SentimentModel
from stream.checkpoint.position import Position
from stream.clock import Clock
from stream.contract.score import Alert, Score
from stream.decode.decoder import Decoder, Money
from stream.decode.placeholders import Placeholders
from stream.decode.pseudonyms import pseudonyms_of
from stream.kafka.app import Source, build_app
from stream.kafka.client_types import TP
from stream.kafka.clients import aiokafka_config, faust_credentials
from stream.kafka.codecs import compression_type
from stream.kafka.oauth import count_tokens
from stream.kafka.publisher import Publisher
from stream.kafka.topics import changelog_topic
from stream.metrics import Metrics
from stream.pipeline import Pipeline, Stages, Topics
from stream.registry.connect import schemas_of
from stream.registry.schemas import Schemas
from stream.score.decide import AlertRule, Decider, encode_json
from stream.score.explain.alert_reasons import AlertReasons
from stream.score.explain.explainer import Explainer
from stream.score.inference import Inference
from stream.score.scorer import Scorer
from stream.service.health import Health
from stream.service.schema_wait import SchemaWait
from stream.settings import Settings, zone_of

__all__ = ["WorkerParts", "build_worker"]


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """Everything that one worker is made of."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    health: Health
    lease: MembershipLease
    publisher: Publisher
    source: Source
    reviews: Reviews
    pipeline: Pipeline
    assignment: Assignment
    schema_wait: SchemaWait

    @property
    def partitions(self) -> list[Partition]:
        """The partitions that are assigned now."""
        return list(self.assignment.partitions.values())


def build_worker(
    settings: Settings,
    scorer: Scorer,
    *,
    partitions: int,
    clock: Clock,
    sentiment: SentimentModel | None = None,
    encode: Callable[[Score | Alert], bytes] = encode_json,
) -> WorkerParts:
    """Make the parts of a worker on an events topic of ``partitions`` partitions. Nothing is connected yet.

    ``encode`` makes the value of a score or an alert for Kafka.
    """
    metrics = Metrics()
    reviews = Reviews(sentiment, settings.reviews_pending_max, metrics, clock)
    lease = MembershipLease(clock, settings.session_timeout_s)
    publisher = _publisher(settings, lease)
    count_tokens(settings, lambda outcome: metrics.oauth_tokens.labels(outcome).inc())
    schemas = schemas_of(settings, clock)
    source = _source(settings, partitions, scorer.manifest.currency)
    stages = _stages(settings, scorer, reviews=reviews, schemas=schemas, metrics=metrics, clock=clock)
    pipeline = Pipeline(
        replace(stages, encode=encode),
        sink=publisher,
        topics=_topics(settings),
        metrics=metrics,
        clock=clock,
    )

    def acknowledge(number: int, position: Position) -> None:
        source.consumer.acknowledge(TP(settings.events_topic, number), position)

    assignment = Assignment(
        pipeline=pipeline,
        store=source.store,
        acknowledge=acknowledge,
        lease=lease,
        metrics=metrics,
        clock=clock,
        refresh_interval_s=settings.refresh_interval_s,
    )
    health = Health(clock, stall_timeout_s=settings.stall_timeout_s)
    schema_wait = SchemaWait(schemas, metrics, health, clock)
    return WorkerParts(
        settings, clock, metrics, health, lease, publisher, source, reviews, pipeline, assignment, schema_wait
    )


def _source(settings: Settings, partitions: int, currency: str) -> Source:
    return build_app(
        app_id=settings.app_id,
        brokers=settings.bootstrap_servers,
        events_topic=settings.events_topic,
        partitions=partitions,
        data_dir=settings.data_dir,
        fetch_records_max=settings.fetch_records_max,
        session_timeout_s=settings.session_timeout_s,
        lateness_s=settings.lateness_s,
        currency=currency,
        instance_id=settings.instance_id,
        standby_replicas=settings.standby_replicas,
        credentials=faust_credentials(settings),
    )


def _publisher(settings: Settings, lease: Lease) -> Publisher:
    return Publisher(
        lease,
        settings.stall_timeout_s,
        changelog_topic(settings),
        compression_type=compression_type(settings),
        **aiokafka_config(settings),
    )


def _topics(settings: Settings) -> Topics:
    return Topics(
        events=settings.events_topic,
        changelog=changelog_topic(settings),
        scores=settings.scores_topic,
        alerts=settings.alerts_topic,
        dlq=settings.dlq_topic,
    )


def _stages(
    settings: Settings, scorer: Scorer, *, reviews: Reviews, schemas: Schemas | None, metrics: Metrics, clock: Clock
) -> Stages:
    decoder = Decoder(
        settings.envelope,
        Money(scorer.manifest.currency, settings.fx_rates, settings.decimal_comma),
        bytes_max=settings.event_bytes_max,
        future_skew_s=settings.future_skew_s,
        pseudonyms=pseudonyms_of(settings.pseudonym_key.get_secret_value(), settings.pseudonym_key_id),
        placeholders=Placeholders(settings.placeholder_ids),
        zone=zone_of(settings.naive_time_zone),
        content_of=schemas.content if schemas else None,
    )
    inference = Inference(scorer=scorer, metrics=metrics, clock=clock)
    rule = AlertRule(
        high=settings.alert_churn_high, clear=settings.alert_churn_clear, cooldown_s=settings.alert_cooldown_s
    )
    decider = Decider(scorer.manifest, scorer.sha256, rule)
    reasons = None
    if settings.explain_users_max:
        explainer = Explainer(scorer, users_max=settings.explain_users_max)
        reasons = AlertReasons(explainer, inference=inference, metrics=metrics, clock=clock)
    return Stages(decoder, reviews, inference, decider, reasons)
