"""Tests of the judge: it must notice what is wrong. The topics are written by hand, without a worker."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from stream.checkpoint.changelog import pack
from stream.contract.score import Score
from stream.kafka.topics import changelog_topic
from stream.score.decide import encode_json
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import Message
from tests.broker.undisturbed import shoppers
from tests.chaos.judge import judge

pytestmark = pytest.mark.broker


def write(settings: Settings, topic: str, messages: list[Message]) -> None:
    harness.produce(settings.model_copy(update={"events_topic": topic}), messages)


def undisturbed(settings: Settings) -> tuple[list[Message], list[Message]]:
    """Changelog and scores of an undisturbed run."""
    oracle = harness.oracle(settings)
    values = [
        (user.encode(), value)
        for state in oracle.partitions.values()
        for user, value in zip(state.ids, pack(state, np.arange(len(state))), strict=True)
    ]
    return list(values), [(user.encode(), score) for user, score in oracle.scores.items()]


def test_lost_events_missing_scores_and_conflicting_scores_are_counted(settings: Settings) -> None:
    harness.produce(settings, shoppers(200, users=20, repeat=0))
    before, _ = undisturbed(settings)
    harness.produce(settings, shoppers(100, users=20, seed=2, repeat=0))
    after, scores = undisturbed(settings)

    write(settings, changelog_topic(settings), before)
    verdict = judge("half", 1, settings)
    assert (verdict.events_in, verdict.lost, verdict.double_counted) == (300, 100, 0)
    assert verdict.scores_missing == len(scores)
    assert not verdict.passed

    write(settings, changelog_topic(settings), after)
    write(settings, settings.scores_topic, scores)
    assert judge("whole", 1, settings).passed
    write(settings, changelog_topic(settings), before)
    assert judge("stale values, which recovery ignores", 1, settings).passed

    key, value = scores[0]
    other = msgspec.structs.replace(msgspec.json.decode(value or b"", type=Score), n_events=9_999)
    write(settings, settings.scores_topic, [(key, encode_json(other)), (key, value)])
    verdict = judge("two contents of one score", 1, settings)
    assert (verdict.conflicting_duplicates, verdict.scores_missing, verdict.passed) == (1, 0, False)


def test_an_event_that_was_counted_twice_is_noticed(settings: Settings) -> None:
    harness.produce(settings, shoppers(300, users=2, repeat=0))
    values, scores = undisturbed(settings)
    oracle = harness.oracle(settings)
    for state in oracle.partitions.values():
        state.users["n_events"][: len(state)] += 1
    write(
        settings,
        changelog_topic(settings),
        [
            (user.encode(), value)
            for state in oracle.partitions.values()
            for user, value in zip(state.ids, pack(state, np.arange(len(state))), strict=True)
        ],
    )
    write(settings, settings.scores_topic, scores)
    verdict = judge("twice", 1, settings)
    assert (verdict.lost, verdict.double_counted, verdict.passed) == (0, len(values), False)
