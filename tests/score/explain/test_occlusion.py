"""Occlusion: without a group, everything but the group looks the same to the model."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings

from stream.contract.columns import HISTORY_LEN
from stream.contract.events import N_TYPES, EventType
from stream.contract.tokens import FEATURES
from stream.score.encode import encode
from stream.score.explain.occlusion import GROUPS, Group, occlusions
from stream.score.explain.sentences import SENTENCES
from stream.score.features import features
from tests.score.explain.models import CODES, HAPPENED, TYPE, Linear, columns, everyone
from tests.score.test_encode import AGES, USERS, event, fold_users
from tests.state.reference import Plain
from tests.state.test_partition_state import START


def test_every_feature_is_in_exactly_one_group_and_every_code_has_a_sentence() -> None:
    names = [name for group in GROUPS for name in group.features]
    assert sorted(names) == sorted(FEATURES), "groups and FEATURES disagree. This is a bug."
    types = [kind for group in GROUPS for kind in group.types]
    assert len(set(types)) == len(types), "an event type is in two groups. This is a bug."
    assert tuple(SENTENCES) == CODES, "groups and SENTENCES disagree. This is a bug."
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", code) for code in CODES)


@settings(max_examples=50, deadline=None)
@given(USERS, AGES)
def test_occluding_a_group_changes_only_what_belongs_to_it(users: list[list[Plain]], age_s: int) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    typical = np.full(len(FEATURES), 9, np.float32)
    tokens, numbers = (
        a.reshape(1 + len(GROUPS), len(users), *a.shape[1:]) for a in occlusions(snapshot, as_of, typical)
    )
    assert np.array_equal(tokens[0], encode(snapshot, as_of))
    assert np.array_equal(numbers[0], features(snapshot, as_of))
    last = snapshot.users["last_time"].astype(np.int64)
    assert np.array_equal(tokens[1], encode(snapshot, last))
    assert np.array_equal(numbers[1], features(snapshot, last))
    for group, without, row in zip(GROUPS[1:], tokens[2:], numbers[2:], strict=True):
        others = np.setdiff1d(np.arange(len(FEATURES)), columns(group))
        assert np.array_equal(row[:, others], numbers[0][:, others]), group.code
        assert (row[:, columns(group)] == (0 if group.types else 9)).all(), group.code
        for before, after in zip(tokens[0], without, strict=True):
            left = before[(before[:, TYPE] > 0) & ~np.isin(before[:, TYPE], group.types)]
            assert np.array_equal(after[: len(left)], left), group.code
            assert not after[len(left) :].any(), group.code


@pytest.mark.parametrize("group", HAPPENED, ids=lambda group: group.code)
@settings(max_examples=20, deadline=None)
@given(events=USERS, age_s=AGES)
def test_occluded_events_score_as_if_they_had_never_happened(
    group: Group, events: list[list[Plain]], age_s: int
) -> None:
    # Each user has a view at the last event. So both histories end at the same instant.
    users = [[*history, event(max(e.time for e in history))] for history in events]
    model = Linear(event_weights=np.isin(np.arange(1, N_TYPES + 1), group.types).astype(float))
    model.feature_weights[columns(group)] = 1
    with_them, as_of = everyone(fold_users(*users), age_s)
    never = fold_users(*([e for e in history if e.type not in group.types] for history in users))
    expected = model.score(with_them, as_of) - model.score(*everyone(never, age_s))
    churn = model.run(*occlusions(with_them, as_of, model.typical.astype(np.float32))).churn.reshape(-1, len(users))
    assert churn[0] - churn[1 + GROUPS.index(group)] == pytest.approx(expected, abs=1e-4)


def test_events_after_an_occluded_one_are_still_seen_by_the_scorer() -> None:
    events = [event(START + i, EventType.CART) for i in range(9)] + [event(START + 9, EventType.PURCHASE)]
    model = Linear()
    tokens, _ = occlusions(*everyone(fold_users(events), 0), model.typical.astype(np.float32))
    without_carts = tokens[1 + CODES.index("carts_abandoned")]
    assert without_carts[:, TYPE].tolist() == [EventType.PURCHASE] + [0] * (HISTORY_LEN - 1)
