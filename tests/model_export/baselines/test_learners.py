"""Linear models and trees: they learn what is there, and score a user the same alone and in a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model_export.baselines.baseline import Baseline
from model_export.baselines.linear import Logistic, Recency
from model_export.baselines.trees import LightGbm
from model_export.data.examples import Examples
from model_export.metrics.measures import auc, gini
from model_export.metrics.ranking import rank_predictions
from stream.contract.columns import DAY_S
from stream.contract.tokens import FEATURES
from stream.score.calibration import sigmoid
from tests.model_export.baselines.order_logs import DAY_0, LABELS, examples

Array = npt.NDArray[Any]


def planted(seed: int, n: int = 500) -> Examples:
    """Users who came lately and ordered often come back, and spend as much as their past orders."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    recency, orders, worth = (x[:, FEATURES.index(name)] for name in ("recency", "orders", "order_value"))
    buys = rng.random((n, 2)) < sigmoid(np.column_stack((-1 - recency + orders, -recency + orders)))
    churn = rng.random(n) < sigmoid(recency - orders)
    value = buys[:, 1] * np.exp(3 + worth + 0.3 * rng.normal(size=n))
    labels = {"churn": churn.astype(np.float32), "purchase": buys.astype(np.float32), "value": value}
    return examples(user=np.arange(n), as_of=np.full(n, DAY_0 * DAY_S), features=x, **labels)


TRAIN, VALIDATION, TEST = planted(1), planted(2), planted(3, 3_000)
LEARNERS: dict[str, Callable[[], Baseline]] = {"recency": Recency, "logistic": Logistic, "lightgbm": LightGbm}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Baseline]:
    learners = {name: make() for name, make in LEARNERS.items()}
    for learner in learners.values():
        learner.fit(TRAIN, VALIDATION, LABELS)
    return learners


@pytest.mark.parametrize("name", LEARNERS)
def test_every_head_ranks_users_it_has_not_seen(fitted: dict[str, Baseline], name: str) -> None:
    predicted = fitted[name].predict(TEST)
    ranks = [auc(rank_predictions(logits, y)) for logits, y in zip(predicted.logits.T, TEST.outcomes.T, strict=True)]
    assert len(ranks) == 3 and min(ranks) > (0.6 if name == "recency" else 0.7)
    assert gini(rank_predictions(predicted.value, TEST.value)) > (0.1 if name == "recency" else 0.6)


@pytest.mark.parametrize("name", LEARNERS)
def test_logits_and_value_have_about_the_right_level_before_calibration(fitted: dict[str, Baseline], name: str) -> None:
    predicted = fitted[name].predict(TEST)
    assert sigmoid(predicted.logits).mean(axis=0) == pytest.approx(TEST.outcomes.mean(axis=0), abs=0.05)
    assert predicted.value.sum() == pytest.approx(TEST.value.sum(), rel=0.3)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_user_scores_the_same_alone_and_in_a_batch(fitted: dict[str, Baseline], name: str) -> None:
    every, one = (fitted[name].predict(TEST.take(np.arange(n))) for n in (100, 1))
    assert one.logits[0] == pytest.approx(every.logits[0])
    assert one.value[0] == pytest.approx(every.value[0])


@pytest.mark.parametrize("name", LEARNERS)
def test_heads_of_one_class_predict_it_and_value_without_buyers_is_zero(name: str) -> None:
    n = 60
    same = {"churn": np.zeros(n, np.float32), "purchase": np.ones((n, 2), np.float32), "value": np.zeros(n)}
    x = np.random.default_rng(4).normal(size=(n, len(FEATURES))).astype(np.float32)
    some = examples(user=np.arange(n), features=x, **same)
    learner = LEARNERS[name]()
    learner.fit(some, some, LABELS)
    predicted = learner.predict(some)
    assert (predicted.logits[:, 0] < -9).all() and (predicted.logits[:, 1:] > 9).all()
    assert not predicted.value.any()


@pytest.mark.parametrize("name", ["recency", "logistic", "lightgbm"])
def test_a_refit_forgets_the_old_examples_and_keeps_the_settings(fitted: dict[str, Baseline], name: str) -> None:
    """A refit on the same examples gives the same scores. A refit on inverted labels gives the opposite."""
    train, test = TRAIN, TEST
    model = copy.deepcopy(fitted[name])
    before = model.predict(test).logits
    model.refit(train, 0)
    assert model.predict(test).logits == pytest.approx(before, abs=1e-3)
    model.refit(replace(train, churn=1 - train.churn, purchase=1 - train.purchase), 0)
    assert np.corrcoef(model.predict(test).logits[:, 0], before[:, 0])[0, 1] < -0.9


def test_boosted_trees_give_the_same_scores_for_a_seed_and_others_for_another(fitted: dict[str, Baseline]) -> None:
    again, other = LightGbm(), LightGbm(seed=1)
    for learner in (again, other):
        learner.fit(TRAIN, VALIDATION, LABELS)
    first = fitted["lightgbm"].predict(TEST)
    assert np.array_equal(again.predict(TEST).logits, first.logits)
    assert np.array_equal(again.predict(TEST).value, first.value)
    assert not np.array_equal(other.predict(TEST).logits, first.logits)


def test_boosted_trees_learn_from_columns_beside_the_features(fitted: dict[str, Baseline]) -> None:
    def beside(e: Examples) -> Array:
        return np.column_stack((e.features, 3 * e.churn + np.random.default_rng(len(e)).normal(size=len(e))))

    told = LightGbm(inputs=beside)
    told.fit(TRAIN, VALIDATION, LABELS)
    more, fewer = (learner.predict(TEST).logits[:, 0] for learner in (told, fitted["lightgbm"]))
    assert auc(rank_predictions(more, TEST.churn)) > 0.95 > 0.9 > auc(rank_predictions(fewer, TEST.churn))
