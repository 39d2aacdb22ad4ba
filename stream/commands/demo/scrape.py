"""Reads the metrics and the health of a worker, and computes rates and quantiles as Prometheus does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from stream.commands.broker.processes import HOST

__all__ = ["Reading", "parse", "quantile", "rate", "ready", "scrape", "since"]

#: A worker on a busy machine may take seconds to answer.
_TIMEOUT_S: Final = 10.0
#: The outcomes of an event. A replayed event is left out, because it was counted when it came first.
_PROCESSED: Final = ("applied", "duplicate", "ignored", "erased", "erasure")
_DEAD: Final = ("late", "dead_letter")
_LATENCY: Final = "valuestream_ingest_to_score_seconds_bucket"

#: Upper edge in seconds → number of observations at or below it, as in a Prometheus histogram.
Buckets = Mapping[float, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics of a worker at the moment ``at``, in monotonic seconds. Counts are since the start of the worker."""

    at: float
    processed: int
    dead_letters: int
    scores: int
    alerts: int
    lag: int
    queued: int
    users: int
    latency: Buckets

    @property
    def handled(self) -> int:
        """Events that the worker is done with: processed events and dead letters."""
        return self.processed + self.dead_letters


def scrape(port: int, at: float) -> Reading | None:
    """Read the metrics of the worker on this loopback port. None if it does not answer."""
    status, body = _get(port, "/metrics")
    return parse(body, at) if status == 200 else None


def ready(port: int) -> bool:
    """Whether the worker on this loopback port says that it serves."""
    return _get(port, "/health/ready")[0] == 200


def _get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection(HOST, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, HTTPException):
        return 0, ""
    finally:
        connection.close()


def parse(text: str, at: float) -> Reading:
    """Read the metrics of a worker from the text format of Prometheus."""
    sums: defaultdict[str, float] = defaultdict(float)
    events: dict[str, float] = {}
    latency: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] += sample.value
            if sample.name == "valuestream_events_total":
                events[sample.labels["outcome"]] = sample.value
            elif sample.name == _LATENCY:
                latency[float(sample.labels["le"])] = sample.value
    return Reading(
        at=at,
        processed=round(sum(events.get(outcome, 0) for outcome in _PROCESSED)),
        dead_letters=round(sum(events.get(outcome, 0) for outcome in _DEAD)),
        scores=round(sums["valuestream_scores_total"]),
        alerts=round(sums["valuestream_alerts_total"]),
        lag=round(sums["valuestream_consumer_lag"]),
        queued=round(sums["valuestream_queue_depth"]),
        users=round(sums["valuestream_state_users"]),
        latency=latency,
    )


def since(new: Buckets, old: Buckets) -> dict[float, float]:
    """The observations that were made between two readings of a histogram."""
    return {edge: n - old.get(edge, 0) for edge, n in new.items()}


def quantile(q: float, buckets: Buckets) -> float | None:
    """The ``q`` quantile, or None without observations. Inside a bucket it is linear, as in ``histogram_quantile``.

    >>> quantile(0.5, {1.0: 0, 2.0: 10, math.inf: 10})
    1.5
    """
    edges = sorted(buckets)
    if not edges or not buckets[edges[-1]]:
        return None
    rank = q * buckets[edges[-1]]
    lower, below = 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= rank and buckets[edge] > below:
            # Beyond the last finite edge there is no upper edge to interpolate to.
            return lower if math.isinf(edge) else lower + (edge - lower) * (rank - below) / (buckets[edge] - below)
        lower, below = edge, buckets[edge]
    return lower


def rate(readings: Iterable[Reading], count: str) -> float:
    """How much the count of this name grew per second, from the first to the last of these readings."""
    all_readings = list(readings)
    first, last = all_readings[0], all_readings[-1]
    increase: int = getattr(last, count) - getattr(first, count)
    return increase / (last.at - first.at) if last.at > first.at else 0.0
