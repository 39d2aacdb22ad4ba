"""``valuestream worker``: checks everything before the start, then scores users until a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import Final

import click
import uvloop

from stream.checkpoint.disk import require_room
from stream.clock import Clock, SystemClock
from stream.commands.options import GroupedCommand, settings_options
from stream.contract.score import Alert, Score
from stream.errors import ConfigError, PublishError
from stream.kafka.client_types import AioKafkaError
from stream.kafka.rights import named_refusal
from stream.kafka.topic_admin import check_topics
from stream.kafka.topics import worker_rights
from stream.registry.connect import registry_of
from stream.registry.scores import avro_encoder
from stream.score.decide import encode_json
from stream.score.scorer import DEMO_MODEL, Scorer
from stream.score.sentiment import Sentiment
from stream.score.signature import Verify, verifier
from stream.service import logs
from stream.service.build import build_worker
from stream.service.garbage_collection import collect_rarely, spare_the_living
from stream.service.worker import Worker
from stream.settings import Settings

__all__ = ["run_worker", "worker"]

logger = logging.getLogger(__name__)
#: How long the loop may keep Python's lock while another thread wants it. An inference that has ended waits that long.
_SWITCH_INTERVAL_S: Final = 0.001


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics", "Events", "Schema registry", "Privacy", "State", "Scoring", "Alerts", "Operations")
def worker(settings: Settings) -> None:
    """Score users live: read events, keep state, publish scores and alerts."""
    logs.setup(settings)
    run_worker(settings, SystemClock())


def run_worker(settings: Settings, clock: Clock) -> None:
    """Check everything that can be checked before start, then serve until SIGTERM or Ctrl-C."""
    require_room(settings.data_dir)
    verify = verifier(settings.model_public_key)
    scorer = Scorer(
        settings.model_dir or DEMO_MODEL,
        provider=settings.provider,
        threads=settings.inference_threads,
        variant=settings.model_variant,
        verify=verify,
    )
    sentiment = _sentiment(settings, verify)
    partitions, problems = check_topics(settings, worker_rights(settings))
    if problems:
        raise ConfigError("; ".join(problems))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    collect_rarely()
    spare_the_living()
    uvloop.run(_serve(settings, clock, scorer=scorer, sentiment=sentiment, partitions=partitions))


def _sentiment(settings: Settings, verify: Verify) -> Sentiment | None:
    if settings.sentiment_dir is None:
        return None
    return Sentiment(
        settings.sentiment_dir, provider=settings.provider, threads=settings.inference_threads, verify=verify
    )


async def _encoder(settings: Settings) -> Callable[[Score | Alert], bytes]:
    """What makes the values of scores and alerts, once the schema registry has answered, if there is one."""
    registry = registry_of(settings)
    if registry is not None:
        await registry.check()
    if settings.scores_format == "json":
        return encode_json
    if registry is None:
        raise ConfigError(
            "scores_format is avro and there is no schema registry, expected one for the schemas of scores and alerts;"
            " set --schema-registry-url"
        )
    return await avro_encoder(registry, settings.scores_topic, settings.alerts_topic)


async def _serve(
    settings: Settings, clock: Clock, *, scorer: Scorer, sentiment: Sentiment | None, partitions: int
) -> None:
    loop = asyncio.get_running_loop()
    encode = await _encoder(settings)
    parts = build_worker(settings, scorer, partitions=partitions, clock=clock, sentiment=sentiment, encode=encode)
    service = Worker(parts, scorer)

    def stop() -> None:
        logger.info("stopping")
        service.stop()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    try:
        await service.run()
    except (AioKafkaError, PublishError) as error:
        raise named_refusal(settings, error, worker_rights(settings)) or error from error
    logger.info("stopped: everything taken in is durable and committed")
