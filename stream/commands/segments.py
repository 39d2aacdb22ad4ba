"""``valuestream segments``: how many users are in each churn band, fit to be published."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any, Final

import click
import msgspec
from kafka import KafkaConsumer

from stream.commands.options import GroupedCommand, settings_options
from stream.commands.private_counts import PrivateCounts, private_counts
from stream.contract.score import Score
from stream.kafka.reading import open_topics, read_partition
from stream.settings import Settings

__all__ = ["segments"]

#: All of them, whoever is in them: a band that is only named when somebody is in it would give them away.
_BANDS: Final = ("low", "medium", "high")


class _Bands(msgspec.Struct, frozen=True):
    """What is printed: the noisy number of users by churn band."""

    topic: str
    churn_band: PrivateCounts


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics")
@click.option(
    "--epsilon",
    type=float,
    default=1.0,
    show_default=True,
    help="Privacy budget of this release: less is more private and less exact. Releases add up.",
)
def segments(epsilon: float, settings: Settings) -> None:
    """Count the users of each churn band by their last score, with differentially private noise, as JSON."""
    bands = _bands(settings)
    counts = private_counts({band: bands[band] for band in _BANDS}, epsilon)
    click.echo(msgspec.json.format(msgspec.json.encode(_Bands(settings.scores_topic, counts)), indent=2))


def _bands(settings: Settings) -> Counter[str]:
    """Users by the churn band of their last score; who was erased is in none."""
    with closing(open_topics(settings, [settings.scores_topic], from_beginning=True)) as consumer:
        return Counter(band for band in _last_bands(consumer).values())


def _last_bands(consumer: KafkaConsumer) -> dict[Any, str]:
    last: dict[Any, str] = {}
    for tp in sorted(consumer.assignment()):
        for record in read_partition(consumer, tp):
            if record.value is None:
                last.pop(record.key, None)
            else:
                last[record.key] = msgspec.json.decode(record.value, type=Score).churn.band
    return last
