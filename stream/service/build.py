"""Build: settings → the parts of a worker that are made of many of them."""

from __future__ import annotations

from stream.checkpoint.lease import Lease
from stream.checkpoint.pending_reviews import Reviews
from stream.clock import Clock
from stream.decode.decoder import Decoder, Money
from stream.decode.pseudonyms import pseudonyms_of
from stream.kafka.app import Source, build_app
from stream.kafka.clients import aiokafka_config, faust_credentials
from stream.kafka.producer import Publisher
from stream.kafka.topics import changelog_topic
from stream.metrics import Metrics
from stream.pipeline import Pipeline, Topics
from stream.score.decide import AlertRule, Decider
from stream.score.explain.explainer import Explainer
from stream.score.scorer import Scorer
from stream.settings import Settings

__all__ = ["build_pipeline", "build_publisher", "build_source"]


def build_source(settings: Settings, partitions: int) -> Source:
    """The Faust app on an events topic of so many partitions."""
    return build_app(
        app_id=settings.app_id,
        brokers=settings.bootstrap_servers,
        events_topic=settings.events_topic,
        partitions=partitions,
        data_dir=settings.data_dir,
        fetch_records_max=settings.fetch_records_max,
        session_timeout_s=settings.session_timeout_s,
        lateness_s=settings.lateness_s,
        instance_id=settings.instance_id,
        standby_replicas=settings.standby_replicas,
        credentials=faust_credentials(settings),
    )


def build_publisher(settings: Settings, lease: Lease) -> Publisher:
    """The sender of everything, held back while the lease is not ours."""
    return Publisher(lease, settings.stall_timeout_s, changelog_topic(settings), **aiokafka_config(settings))


def build_pipeline(
    settings: Settings, scorer: Scorer, publisher: Publisher, metrics: Metrics, clock: Clock, reviews: Reviews
) -> Pipeline:
    """The stages, from decoding to publishing."""
    s, manifest = settings, scorer.manifest
    decoder = Decoder(
        s.envelope,
        Money(manifest.currency, s.fx_rates),
        bytes_max=s.event_bytes_max,
        future_skew_s=s.future_skew_s,
        pseudonyms=pseudonyms_of(s.pseudonym_key.get_secret_value(), s.pseudonym_key_id),
    )
    rule = AlertRule(high=s.alert_churn_high, clear=s.alert_churn_clear, cooldown_s=s.alert_cooldown_s)
    topics = Topics(s.events_topic, changelog_topic(s), s.scores_topic, s.alerts_topic, s.dlq_topic)
    decider = Decider(manifest, scorer.sha256, rule)
    explainer = Explainer(scorer, users_max=s.explain_users_max) if s.explain_users_max else None
    return Pipeline(decoder, scorer, decider, publisher, topics, metrics, clock, reviews, explainer)
