"""Explainer: a reason says by how much the model's score falls without its group of evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.events import EventType
from stream.contract.score import Reason
from stream.contract.tokens import FEATURES
from stream.errors import ContractError
from stream.score.encode import encode
from stream.score.explain.explainer import EFFECT_MIN, REASONS_MAX, Explainer
from stream.score.explain.occlusion import GROUPS, occlusions
from stream.score.features import features
from stream.score.scorer import DEMO_MODEL, Scorer
from tests.score.explain.models import (
    CODES,
    HAPPENED,
    LACKS,
    TYPE,
    Blaming,
    Linear,
    ago,
    columns,
    everyone,
    random_model,
)
from tests.score.explain.reference import plain_sentence
from tests.score.test_encode import AGES, USERS, event, fold_users
from tests.state.reference import Plain
from tests.state.test_partition_state import DAY, START

# Effects ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_without_the_named_group_the_score_falls_by_the_stated_effect(
    users: list[list[Plain]], age_s: int, seed: int
) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    model = random_model(seed)
    explained = Explainer(model, users_max=len(users)).explain(snapshot, as_of)
    numbers, tokens = features(snapshot, as_of).astype(float), encode(snapshot, as_of)
    silence = model.score(snapshot, as_of) - model.score(snapshot, snapshot.users["last_time"].astype(np.int64))
    for i, reasons in enumerate(explained):
        assert len(reasons) <= REASONS_MAX
        assert [r.effect for r in reasons] == sorted((r.effect for r in reasons), reverse=True)
        assert len({r.code for r in reasons}) == len(reasons)
        for reason in reasons:
            group = GROUPS[CODES.index(reason.code)]
            replaced = np.zeros(len(FEATURES)) if group.types else model.typical
            by_features = ((numbers[i] - replaced) * model.feature_weights)[columns(group)].sum()
            by_events = sum(model.event_weights[kind - 1] * (tokens[i, :, TYPE] == kind).sum() for kind in group.types)
            expected = silence[i] if group.code == "silence" else by_features + by_events
            assert reason.effect == pytest.approx(expected, abs=1e-3)
            assert reason.effect >= EFFECT_MIN


@settings(max_examples=60, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_reasons_are_the_strongest_groups_with_true_sentences(users: list[list[Plain]], age_s: int, seed: int) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    model = random_model(seed)
    typical = dict(zip(FEATURES, model.typical.tolist(), strict=True))
    churn = model.run(*occlusions(snapshot, as_of, model.typical.astype(np.float32))).churn.reshape(-1, len(users))
    explained = Explainer(model, users_max=len(users)).explain(snapshot, as_of)
    for i, reasons in enumerate(explained):
        effects = dict(zip(CODES, churn[0, i] - churn[1:, i], strict=True))
        above = sorted((code for code in CODES if effects[code] > EFFECT_MIN), key=lambda code: -effects[code])
        texts = [(code, plain_sentence(code, users[i], int(as_of[i]), typical)) for code in above]
        assert [(r.code, r.text) for r in reasons] == [(code, text) for code, text in texts if text][:REASONS_MAX]


@settings(max_examples=50, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_user_with_nothing_in_a_group_gets_no_reason_from_it(users: list[list[Plain]], age_s: int, seed: int) -> None:
    for group in HAPPENED:
        model = random_model(seed)
        without = [[e for e in history if e.type not in group.types] for history in users]
        snapshot, as_of = everyone(fold_users(*([*history, event(START)] for history in without)), age_s)
        for reasons in Explainer(model, users_max=len(users)).explain(snapshot, as_of):
            assert group.code not in {reason.code for reason in reasons}


@settings(max_examples=30, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000))
def test_typical_user_lacks_nothing_and_fresh_user_is_not_silent(
    users: list[list[Plain]], age_s: int, seed: int
) -> None:
    state = fold_users(*users)
    for row, number in enumerate(features(*everyone(state, age_s))):
        snapshot = state.snapshot(np.array([row]))
        last = snapshot.users["last_time"].astype(np.int64)
        model = replace(random_model(seed), typical=number.astype(float))
        (reasons,) = Explainer(model, users_max=1).explain(snapshot, last + age_s)
        assert {r.code for r in reasons}.isdisjoint(group.code for group in LACKS)
        (fresh,) = Explainer(model, users_max=1).explain(snapshot, last)
        assert "silence" not in {r.code for r in fresh}


def test_group_that_lowers_churn_is_no_reason() -> None:
    snapshot, as_of = everyone(fold_users([event(START)]), 9 * DAY)
    loyal, leaving = Linear(), Linear()
    loyal.feature_weights[FEATURES.index("recency")] = -1
    leaving.feature_weights[FEATURES.index("recency")] = 1
    assert Explainer(loyal, users_max=1).explain(snapshot, as_of) == [[]]
    effect = round(float(np.log1p(9)), 4)
    assert Explainer(leaving, users_max=1).explain(snapshot, as_of) == [
        [Reason("silence", "no visit for 9 days", pytest.approx(effect, abs=2e-4))]
    ]


def test_only_the_four_strongest_of_many_reasons_are_given() -> None:
    kinds = (EventType.REFUND, EventType.CART, EventType.VIEW)
    snapshot, as_of = everyone(fold_users([ago(20 - i, kind) for i, kind in enumerate(kinds)]), 9 * DAY)
    effects = {"refunds": 0.3, "short_history": 0.2, "no_recent_order": 0.5, "carts_abandoned": 0.4, "silence": 0.6}
    model = Blaming(effects | {"bad_review": 0.9}, {"tenure": 9.0})
    (reasons,) = Explainer(model, users_max=1).explain(snapshot, as_of)
    strongest = ["silence", "no_recent_order", "carts_abandoned", "refunds"]
    assert [(r.code, r.effect) for r in reasons] == [(code, effects[code]) for code in strongest]


def test_effect_up_to_the_minimum_is_no_reason() -> None:
    user = everyone(fold_users([ago(0)]), 9 * DAY)
    for effect, expected in ((EFFECT_MIN, []), (2 * EFFECT_MIN, ["silence"])):
        (reasons,) = Explainer(Blaming({"silence": effect}), users_max=1).explain(*user)
        assert [r.code for r in reasons] == expected


# Cost -------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(USERS, AGES, st.integers(0, 10_000), st.integers(0, 6))
def test_one_bounded_call_explains_the_first_users_as_if_each_were_alone(
    users: list[list[Plain]], age_s: int, seed: int, users_max: int
) -> None:
    snapshot, as_of = everyone(fold_users(*users), age_s)
    model = random_model(seed)
    together = Explainer(model, users_max=users_max).explain(snapshot, as_of)
    n = min(users_max, len(users))
    assert model.rows == [(1 + len(GROUPS)) * n] * (n > 0)
    assert len(together) == len(users)
    assert together[n:] == [[]] * (len(users) - n)
    state = fold_users(*users)
    for row in range(n):
        alone = state.snapshot(np.array([row]))
        assert Explainer(model, users_max=1).explain(alone, as_of[[row]]) == [together[row]]


def test_events_that_have_left_the_history_count_in_the_effects() -> None:
    rng = np.random.default_rng(3)
    state = fold_users(
        *([ago(d, EventType.PURCHASE, 700) for d in rng.uniform(0, 20, n).tolist()] for n in (5, 100, 7, 90, 80))
    )
    snapshot, as_of = everyone(state, 5 * DAY)
    assert snapshot.bucketed.tolist() == [1, 3, 4]
    model = Linear()
    model.typical[FEATURES.index("active_days_30d")] = 30
    model.feature_weights[FEATURES.index("active_days_30d")] = -1
    explained = Explainer(model, users_max=4).explain(snapshot, as_of)
    numbers = features(snapshot, as_of)
    assert explained[4] == []
    for reasons, row in zip(explained[:4], numbers, strict=False):
        assert [r.code for r in reasons] == ["fewer_visits"]
        assert reasons[0].effect == 30 - row[FEATURES.index("active_days_30d")]


def test_model_without_typical_users_is_refused() -> None:
    with pytest.raises(ContractError, match=rf"0 typical feature values, expected {len(FEATURES)}; export the model"):
        Explainer(Linear(typical=np.zeros(0)), users_max=1)


# The shipped model ------------------------------------------------------------------------------------


def test_shipped_model_scores_lower_without_the_named_group() -> None:
    rng = np.random.default_rng(8)
    users = [
        [
            ago(float(d), EventType(int(kind)), 5_000 * int(kind == EventType.PURCHASE))
            for d, kind in zip(rng.uniform(0, 60, n), rng.choice([2, 2, 2, 3, 5, 6, 7, 8, 9], n), strict=True)
        ]
        for n in np.resize([1, 3, 8, 20, 64, 90], 30).tolist()
    ]
    snapshot, as_of = everyone(fold_users(*users), 9 * DAY)
    scorer = Scorer(DEMO_MODEL)
    explained = Explainer(scorer, users_max=len(users)).explain(snapshot, as_of)
    assert {r.code for reasons in explained for r in reasons} > {"silence"}
    tokens, numbers = occlusions(snapshot, as_of, np.array(scorer.manifest.typical, np.float32))
    for i, reasons in enumerate(explained):
        as_is = scorer.run(tokens[[i]], numbers[[i]]).churn[0]
        for reason in reasons:
            row = [(1 + CODES.index(reason.code)) * len(users) + i]
            lower = scorer.run(tokens[row], numbers[row]).churn[0]
            assert lower < as_is
            assert reason.effect == round(float(as_is - lower), 4)
