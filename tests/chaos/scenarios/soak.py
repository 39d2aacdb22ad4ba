"""Soak: runs a worker at a fixed rate for an hour. After that nothing may have grown."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from kafka.admin import ConfigResource, ConfigResourceType

from stream.kafka.clients import connect
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from tests.broker.harness import WorkerProcess
from tests.chaos.judge import Verdict, judge
from tests.chaos.traffic import Shop, send_steadily
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["soak"]

_SHORT_S: Final = 5.0
_EVENTS_PER_S: Final = 100
_USERS: Final = 1_000
#: In this share of the time histories, pools and the first journals fill. Slopes are measured over the rest.
_WARM_UP_SHARE: Final = 1 / 3
#: The rest is cut into so many spans. Each is longer than a journal takes to grow and be merged (about 5 minutes).
_SPANS: Final = 4
#: How much each measure may grow in an hour of the long form, and how its level in a span is found: by the median, or
#: by the peak if the measure goes up and down like a saw-tooth.
#:
#: * A leak of 100 bytes for each event would be 36 MB an hour. Half of that would be noticed.
#: * A journal has two files open, and two more while it is merged.
#: * Users wait for their score for about a second, and none waits for ever.
#: * In each of the four partitions a journal grows by some 8 MB until it is merged. One more such tooth is no growth.
_GROWTH_MAX: Final[dict[str, tuple[float, Callable[[list[float]], Any]]]] = {
    "rss_mb": (18.0, np.max),
    "files": (12.0, np.max),
    "queue": (20.0, np.median),
    "lag": (20.0, np.median),
    "disk_mb": (32.0, np.max),
}
#: With this configuration the changelog is compacted within the hour, as it is within a month of production.
_COMPACTED_SOON: Final = {"segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.2"}


class _Sample(msgspec.Struct, frozen=True):
    at_s: float
    rss_mb: float
    files: float
    queue: float
    lag: float
    disk_mb: float


@scenario("soak", timeout_s=3 * 3_600, seeds_max=1)
def soak(world: World) -> Verdict:
    """Events come at a fixed rate for ``CHAOS_SOAK_S`` (an hour), and nothing may grow (short: seconds, no limits)."""
    seconds = _SHORT_S if world.short else float(os.environ.get("CHAOS_SOAK_S", "3600"))
    settings = world.settings(instance_id="soak")
    _compact_soon(settings)
    shop = Shop(world.seed, _USERS)
    samples: list[_Sample] = []
    worker = world.worker(settings)
    worker.wait_ready()
    send_steadily(
        settings,
        lambda now: shop.event(shop.anyone(), now),
        per_s=_EVENTS_PER_S,
        seconds=seconds,
        sample=lambda at_s: samples.extend(_sample(worker, settings.data_dir, at_s)),
        every_s=max(1.0, seconds / 720),
    )
    wait_settled(settings, worker)
    code = worker.terminate()
    grown = _growth(samples)
    problems = [] if code == 0 else [f"the worker ended with {code}"]
    if not world.short:
        problems += [
            f"{name} grew by {grown[name]:.1f} an hour, expected at most {most}"
            for name, (most, _) in _GROWTH_MAX.items()
            if grown[name] > most
        ]
    verdict = judge("soak", world.seed, settings, problem="; ".join(problems))
    peaks = {f"{name}_max": max(getattr(s, name) for s in samples) for name in _GROWTH_MAX}
    slopes = {f"{name}_per_hour": value for name, value in grown.items()}
    return msgspec.structs.replace(
        verdict, measures={k: round(v, 2) for k, v in ({"seconds": seconds} | slopes | peaks).items()}
    )


def _compact_soon(settings: Settings) -> None:
    admin = connect(settings)
    try:
        admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, changelog_topic(settings), configs=_COMPACTED_SOON)]
        )
    finally:
        admin.close()


def _sample(worker: WorkerProcess, data_dir: Path, at_s: float) -> list[_Sample]:
    """One sample; none if the worker is too busy to answer."""
    worker.alive()
    status, body = worker.get("/metrics")
    if status != 200:
        return []
    values = [line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#")]

    def total(name: str) -> float:
        return sum(float(value) for series, value in values if series.partition("{")[0] == name)

    sample = _Sample(
        at_s=at_s,
        rss_mb=total("process_resident_memory_bytes") / 2**20,
        files=total("process_open_fds"),
        queue=total("valuestream_queue_depth"),
        lag=total("valuestream_consumer_lag"),
        disk_mb=_size_of(data_dir) / 2**20,
    )
    return [sample]


def _size_of(folder: Path) -> int:
    """Bytes of the files in this folder. A file that disappears meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _growth(samples: list[_Sample]) -> dict[str, float]:
    """Growth of each measure per hour after the warm-up: the least-squares slope of its levels."""
    warm = [s for s in samples if s.at_s >= _WARM_UP_SHARE * samples[-1].at_s]
    spans = [part.tolist() for part in np.array_split(np.arange(len(warm)), min(_SPANS, len(warm)))]
    hours = [float(np.mean([warm[i].at_s for i in span])) / 3_600 for span in spans]
    return {
        name: float(np.polyfit(hours, [level([getattr(warm[i], name) for i in span]) for span in spans], 1)[0])
        for name, (_, level) in _GROWTH_MAX.items()
    }
