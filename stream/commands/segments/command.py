"""``valuestream segments``: counts the users of each churn band, with noise that makes the counts safe to publish."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any, Final

import click
import msgspec

from stream.clock import SystemClock
from stream.commands.options import GroupedCommand, settings_options
from stream.commands.segments.private_counts import PrivateCounts, private_counts
from stream.contract.score import Score
from stream.kafka.client_types import KafkaConsumer
from stream.kafka.reading import open_topics, read_partition
from stream.registry.connect import schemas_of
from stream.registry.schemas import Schemas
from stream.registry.scores import read_record
from stream.settings import Settings

__all__ = ["segments"]

#: Every band is always printed. If a band were named only when a user is in it, its name would reveal the user.
_BANDS: Final = ("low", "medium", "high")


class _BandCounts(msgspec.Struct, frozen=True):
    """What is printed: the noisy number of users by churn band."""

    topic: str
    churn_band: PrivateCounts


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics", "Schema registry")
@click.option(
    "--epsilon",
    type=float,
    default=1.0,
    show_default=True,
    help="Privacy budget of this release: less is more private and less exact. Releases add up.",
)
def segments(epsilon: float, settings: Settings) -> None:
    """Count the users of each churn band by their last score, with differentially private noise, as JSON."""
    counts = _count_bands(settings)
    noisy = private_counts({band: counts[band] for band in _BANDS}, epsilon)
    click.echo(msgspec.json.format(msgspec.json.encode(_BandCounts(settings.scores_topic, noisy)), indent=2))


def _count_bands(settings: Settings) -> Counter[str]:
    """Users by the churn band of their last score. An erased user is in no band."""
    schemas = schemas_of(settings, SystemClock())
    with closing(open_topics(settings, [settings.scores_topic], from_beginning=True)) as consumer:
        return Counter(band for band in _last_bands(consumer, schemas).values())


def _last_bands(consumer: KafkaConsumer, schemas: Schemas | None) -> dict[Any, str]:
    """The churn band in the last score of each user, by record key."""
    last: dict[Any, str] = {}
    for tp in sorted(consumer.assignment()):
        for record in read_partition(consumer, tp):
            if record.value is None:
                last.pop(record.key, None)
            else:
                last[record.key] = read_record(record, Score, schemas).churn.band
    return last
