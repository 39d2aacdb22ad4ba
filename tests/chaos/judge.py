"""Judge: compares the topics after the faults with an undisturbed offline replay of the same events."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from stream.checkpoint.changelog import load
from stream.checkpoint.packed_values import applied_offset
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from stream.state.partition_state import PartitionState
from tests.broker import harness
from tests.broker.undisturbed import expected_states

__all__ = ["Verdict", "judge", "newest_values", "recovered"]


class Verdict(msgspec.Struct, frozen=True):
    """The result of one run of a scenario. It counts events, last scores of users, and score ids."""

    scenario: str
    seed: int
    events_in: int
    lost: int
    double_counted: int
    scores_missing: int
    conflicting_duplicates: int
    recovery_seconds: float
    passed: bool
    #: What else went wrong, in words; empty if nothing did.
    problem: str = ""
    #: Name with unit → what was measured on the way. It does not count for the verdict, unless the scenario says so.
    measures: dict[str, float] = {}


def judge(
    scenario: str,
    seed: int,
    settings: Settings,
    *,
    recovery_seconds: float = 0.0,
    problem: str = "",
    measures: Mapping[str, float] = MappingProxyType({}),
    **oracle: Any,
) -> Verdict:
    """Read the topics of ``settings`` to their ends and compare. ``oracle`` goes to the offline replay."""
    expected = harness.oracle(settings, **oracle)
    found = recovered(settings)
    lost = twice = 0
    for number, state in expected.partitions.items():
        counts = {user: int(found[number].users["n_events"][row]) for row, user in enumerate(found[number].ids) if user}
        for row, user in enumerate(state.ids):
            difference = int(state.users["n_events"][row]) - counts.pop(user, 0)
            lost, twice = lost + max(0, difference), twice + max(0, -difference)
        twice += sum(counts.values())
    if not problem and expected_states(found) != expected_states(expected.partitions):
        problem = "the state of some user differs from that of an undisturbed run"
    records = harness.read_topic(settings, settings.scores_topic)
    last = harness.last_values(records)
    verdict = Verdict(
        scenario=scenario,
        seed=seed,
        events_in=sum(int(state.users["n_events"][: len(state)].sum()) for state in expected.partitions.values()),
        lost=lost,
        double_counted=twice,
        scores_missing=sum(last.get(user) != score for user, score in expected.scores.items()),
        conflicting_duplicates=_conflicts(records),
        recovery_seconds=round(recovery_seconds, 2),
        passed=False,
        problem=problem,
        measures={name: round(value, 3) for name, value in measures.items()},
    )
    clean = not (lost or twice or verdict.scores_missing or verdict.conflicting_duplicates or problem)
    return msgspec.structs.replace(verdict, passed=clean)


def newest_values(settings: Settings) -> dict[int, dict[str, bytes]]:
    """Partition → user → value as recovery reads the changelog: the value with the larger applied offset counts."""
    values: dict[int, dict[str, bytes]] = {number: {} for number in range(harness.PARTITIONS)}
    for record in harness.read_topic(settings, changelog_topic(settings)):
        users, user = values[record.partition], record.key.decode()
        if record.value is None:
            users.pop(user, None)
        elif user not in users or applied_offset(record.value) >= applied_offset(users[user]):
            users[user] = record.value
    return values


def recovered(settings: Settings) -> dict[int, PartitionState]:
    """The states that a new worker would read from the changelog."""
    states = {}
    for number, users in newest_values(settings).items():
        states[number] = PartitionState(settings.lateness_s, "USD")
        load(states[number], list(users), list(users.values()))
    return states


def _conflicts(records: Iterable[Any]) -> int:
    """How many score ids came with more than one content."""
    by_id = defaultdict(set)
    for record in records:
        if record.value is not None:
            by_id[json.loads(record.value)["score_id"]].add(record.value)
    return sum(len(values) > 1 for values in by_id.values())
