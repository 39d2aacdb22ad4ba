"""Undisturbed: traffic for the tests with faults, and a check that the result is that of an undisturbed run."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict

import numpy as np

from stream.checkpoint import changelog
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from stream.state.partition_state import PartitionState
from tests.broker import harness
from tests.broker.harness import Message, track
from tests.contract.packed_users import as_version, in_this_version, without_scores

__all__ = ["assert_as_undisturbed", "expected_states", "shoppers", "states_of"]

NAMES = ("Product Viewed", "Product Viewed", "Products Searched", "Product Added", "Order Completed")


def shoppers(n: int, users: int, seed: int = 1, repeat: float = 0.02) -> list[Message]:
    """Events of the last half hour; a share of ``repeat`` of them is sent twice."""
    rng = random.Random(seed)
    start = time.time() - 1_800
    messages: list[Message] = []
    for i in range(n):
        user = f"user-{rng.randrange(users)}"
        name = rng.choice(NAMES)
        extra = {"total": 20.5, "order_id": f"o{seed}-{i}"} if name == "Order Completed" else {}
        at = start + 1_800 * i / n - rng.randrange(60)
        value = track(user, name, round(at, 3), f"m{seed}-{i}", product_id=f"p{i % 50}", category="shoes", **extra)
        messages.append((user.encode(), value))
        if rng.random() < repeat:
            messages.append(messages[-1])
    return messages


def states_of(settings: Settings) -> dict[str, bytes]:
    """Last changelog value of every user in this version, with the columns that scoring writes set to nothing."""
    return {
        user: without_scores(in_this_version(value))
        for user, value in harness.last_values(harness.read_topic(settings, changelog_topic(settings))).items()
    }


def expected_states(partitions: dict[int, PartitionState]) -> dict[str, bytes]:
    return {
        user: without_scores(value)
        for state in partitions.values()
        for user, value in zip(state.ids, changelog.pack(state, np.arange(len(state))), strict=True)
    }


def _without_orders(value: bytes) -> bytes:
    return as_version(value, 2)


def assert_as_undisturbed(settings: Settings, expected: harness.Oracle | None = None, *, orders: bool = True) -> None:
    """Check that states and last scores are those of the oracle, and that scores with the same id are equal bytes.

    Without ``orders``, the remembered orders are not compared: a release that packs version 1 or 2 forgets them.
    """
    expected = expected or harness.oracle(settings)
    found, wanted = states_of(settings), expected_states(expected.partitions)
    if not orders:
        found, wanted = ({user: _without_orders(value) for user, value in one.items()} for one in (found, wanted))
    assert found == wanted
    records = harness.read_topic(settings, settings.scores_topic)
    assert harness.last_values(records) == expected.scores
    by_id = defaultdict(set)
    for record in records:
        by_id[json.loads(record.value)["score_id"]].add(record.value)
    assert all(len(values) == 1 for values in by_id.values())
