"""Capacity: what a load needs, computed from measured unit costs. docs/capacity.md explains each formula.

A unit cost that was not measured is NaN, and so is every result that depends on it. The formulas use the functions of
numpy, because those pass NaN on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from stream.arrays import Floats
from stream.checkpoint.journal import GROWTH
from stream.commands.plan.unit_costs import Costs
from stream.contract.columns import DAY_S, HISTORY_LEN

__all__ = ["Capacity", "Load", "capacity", "changed_users_per_s", "scores_per_s", "user_memory_bytes", "value_bytes"]

#: Gauss-Hermite quadrature: computes means over users with log-normal rates.
_NODES, _WEIGHTS = (np.array(values) for values in np.polynomial.hermite_e.hermegauss(48))
_WEIGHTS /= _WEIGHTS.sum()
#: A partition goes to one worker, and the number of partitions never changes. Two for each worker leave room to double
#: the workers.
_PARTITIONS_PER_WORKER: Final = 2
#: Kafka compacts a log when half of it is superseded (min.cleanable.dirty.ratio). So a log holds up to two values of
#: each user.
_COMPACTED_MAX: Final = 2
#: A journal grows until its files are merged. For a moment it holds both the old files and the merged one.
_JOURNAL_MAX: Final = GROWTH + 1


@dataclass(frozen=True, slots=True)
class Load:
    """The load to plan for. ``events_per_user`` counts those of 30 days. ``active_users`` send at the same time."""

    users: int
    events_per_s: float
    events_per_user: float
    active_users: float
    event_bytes: float
    user_id_bytes: float = 36
    refresh_interval_s: float = 1.0
    checkpoint_interval_s: float = 1.0
    session_timeout_s: float = 8.0
    standby_replicas: int = 1
    replication: int = 3
    retention_days: float = 7.0
    utilisation: float = 0.5
    gpus: int = 0
    #: How unevenly users are active: the standard deviation of the logarithm of their rates. It is 1 in the benchmark.
    activity_spread: float = 1.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a load needs. Rates are those of the whole service, per second. NaN means that nobody has measured it."""

    scores_per_s: float
    changed_users_per_s: float
    events_per_s_max_per_worker: float
    partitions: float
    workers: float
    cores: float
    gpus: float
    memory_bytes_per_worker: float
    memory_bytes: float
    value_bytes: float
    store_bytes: float
    topics_bytes: float
    changelog_bytes_per_s: float
    events_bytes_per_s: float
    scores_bytes_per_s: float
    kafka_written_bytes_per_s: float
    kafka_read_bytes_per_s: float
    recovery_from_disk_s: float
    recovery_from_changelog_s: float
    catch_up_s: float


def capacity(load: Load, costs: Costs) -> Capacity:
    """What this load needs at these unit costs."""
    compute = _compute(load, costs)
    users = float(np.ceil(load.users / compute["workers"]))
    memory = costs.worker_bytes + users * user_memory_bytes(load, costs)
    return Capacity(
        **compute,
        memory_bytes_per_worker=memory,
        memory_bytes=memory * compute["workers"],
        **_kept(load, costs),
        **_traffic(load, costs),
        recovery_from_disk_s=load.session_timeout_s + users * costs.disk_recovery_s,
        recovery_from_changelog_s=load.session_timeout_s + users * costs.changelog_recovery_s,
        catch_up_s=load.utilisation / (1 - load.utilisation),
    )


def _compute(load: Load, costs: Costs) -> dict[str, float]:
    """Workers, cores and GPUs. The loop of a worker uses one core, and its inference runs beside it in a thread."""
    scores, changed = scores_per_s(load), changed_users_per_s(load)
    loop_s = load.events_per_s * costs.event_s + changed * costs.value_s + scores * costs.score_s
    threads = (loop_s,) if load.gpus else (loop_s, scores * costs.inference_s)
    busiest = float(np.max(threads))
    workers = float(np.ceil(busiest / load.utilisation))
    return {
        "scores_per_s": scores,
        "changed_users_per_s": changed,
        "events_per_s_max_per_worker": load.events_per_s / busiest,
        "partitions": workers * _PARTITIONS_PER_WORKER,
        "workers": workers,
        "cores": float(np.maximum(workers, np.ceil(sum(threads) / load.utilisation))),
        "gpus": float(np.ceil(scores * costs.gpu_s / load.utilisation)) if load.gpus else 0.0,
    }


def _kept(load: Load, costs: Costs) -> dict[str, float]:
    """Bytes on the disks of the workers and of Kafka."""
    values = load.users * (value_bytes(load, costs) + load.user_id_bytes)
    scores = load.users * (costs.score_bytes + load.user_id_bytes)
    events = load.events_per_s * load.event_bytes * load.retention_days * DAY_S
    return {
        "value_bytes": value_bytes(load, costs),
        "store_bytes": values * (1 + load.standby_replicas) * _JOURNAL_MAX,
        "topics_bytes": (events + _COMPACTED_MAX * (values + scores)) * load.replication,
    }


def _traffic(load: Load, costs: Costs) -> dict[str, float]:
    events = load.events_per_s * load.event_bytes
    changelog = changed_users_per_s(load) * (value_bytes(load, costs) + load.user_id_bytes)
    scores = scores_per_s(load) * (costs.score_bytes + load.user_id_bytes)
    return {
        "events_bytes_per_s": events,
        "changelog_bytes_per_s": changelog,
        "scores_bytes_per_s": scores,
        "kafka_written_bytes_per_s": (events + changelog + scores) * load.replication,
        "kafka_read_bytes_per_s": events + changelog * load.standby_replicas,
    }


def scores_per_s(load: Load) -> float:
    """Scores for events, and at most one a day for each silent user.

    A user sends events at random with rate r, and is scored at most once in T seconds. After a score the next one comes
    T later, or at the next event if none came in between. So the mean time between scores is T + exp(-rT) / r. With
    T = 0 every event gives a score.

    >>> every = Load(users=86_400, events_per_s=100.0, events_per_user=3.0, active_users=50.0, event_bytes=0.0,
    ...              refresh_interval_s=0.0)
    >>> round(scores_per_s(every), 6)
    101.0
    """
    interval_s = load.refresh_interval_s
    rates = _rates(load)
    scores_for_events = rates / (rates * interval_s + np.exp(-rates * interval_s))
    return load.active_users * float(scores_for_events @ _WEIGHTS) + load.users / DAY_S


def changed_users_per_s(load: Load) -> float:
    """Values that go to the changelog: one for each active user with an event since the last checkpoint."""
    changed = -np.expm1(-_rates(load) * load.checkpoint_interval_s)
    return load.active_users * float(changed @ _WEIGHTS) / load.checkpoint_interval_s


def _rates(load: Load) -> Floats:
    """Events per second of active users, from the quietest to the busiest. ``_WEIGHTS`` are their shares."""
    spread = load.activity_spread
    return load.events_per_s / load.active_users * np.exp(spread * _NODES - spread**2 / 2)


def value_bytes(load: Load, costs: Costs) -> float:
    """Mean size of a packed user."""
    events, full = _history_events(load.events_per_user, load.activity_spread)
    return costs.value_bytes + costs.value_event_bytes * events + costs.value_buckets_bytes * full


def user_memory_bytes(load: Load, costs: Costs) -> float:
    """Mean memory of a user."""
    _, full = _history_events(load.events_per_user, load.activity_spread)
    return costs.user_bytes + costs.buckets_bytes * full


def _history_events(mean: float, spread: float) -> tuple[float, float]:
    """Mean number of events in a history, and the share of users with a full history, if activity is log-normal.

    >>> [round(x, 3) for x in _history_events(30.0, 1.0)], [round(x, 3) for x in _history_events(1e6, 1.0)]
    ([24.722, 0.104], [64.0, 1.0])
    """
    log_events = NormalDist(math.log(mean) - spread**2 / 2, spread)
    log_length = math.log(HISTORY_LEN)
    full = 1 - log_events.cdf(log_length)
    return mean * log_events.cdf(log_length - spread**2) + HISTORY_LEN * full, full
