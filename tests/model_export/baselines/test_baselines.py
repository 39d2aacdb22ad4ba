"""Baselines: they learn what is there, see nothing of what comes later, and BG/NBD has the published parameters."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model_export.baselines import Baseline, log_odds
from model_export.baselines.bgnbd import BgNbd, GammaGamma, Orders, Summaries, summaries
from model_export.baselines.linear import Logistic, Recency
from model_export.baselines.trees import LightGbm
from model_export.data.event_log import DataConfig, EventLog, load
from model_export.data.examples import Examples
from model_export.metrics.measures import auc, gini
from model_export.metrics.ranking import rank_predictions
from stream.contract.columns import DAY_S
from stream.contract.events import EVENT, EventType
from stream.contract.manifest import Labels
from stream.contract.tokens import FEATURES
from stream.errors import ConfigError
from stream.score.calibration import sigmoid

Array = npt.NDArray[Any]
LABELS = Labels(60, 14, (7, 30), 30)
DAY_0 = 19_000
WEEKS = 7.0


def log_of(*orders: tuple[int, float, float], type_: EventType = EventType.PURCHASE) -> EventLog:
    """Events (user, day, value), of purchases if not said otherwise."""
    users, days, values = (np.array(column) for column in zip(*sorted(orders, key=lambda o: o[1]), strict=True))
    rows = np.zeros(len(users), EVENT)
    rows["time"] = (DAY_0 + days) * DAY_S
    rows["value"], rows["type"] = np.round(values * 100), type_
    names, unread = [f"u{u}" for u in range(users.max() + 1)], np.full(len(rows), np.nan, np.float32)
    return EventLog(names, users.astype(np.int64), rows, Counter(), {}, unread)


def examples(**columns: Array) -> Examples:
    """Examples of which only these columns matter."""
    n = len(columns["user"])
    blank = {f.name: np.zeros(n, np.int64) for f in fields(Examples)}
    return Examples(**{**blank, "features": np.zeros((n, len(FEATURES)), np.float32), **columns})


def planted(seed: int, n: int = 500) -> Examples:
    """Who came lately and ordered often comes back, and spends by order value."""
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
def test_logits_and_value_are_about_right_before_calibration(fitted: dict[str, Baseline], name: str) -> None:
    predicted = fitted[name].predict(TEST)
    assert sigmoid(predicted.logits).mean(axis=0) == pytest.approx(TEST.outcomes.mean(axis=0), abs=0.05)
    assert predicted.value.sum() == pytest.approx(TEST.value.sum(), rel=0.3)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_user_scores_the_same_alone_and_in_a_batch(fitted: dict[str, Baseline], name: str) -> None:
    every, one = (fitted[name].predict(TEST.take(np.arange(n))) for n in (100, 1))
    assert one.logits[0] == pytest.approx(every.logits[0])
    assert one.value[0] == pytest.approx(every.value[0])


@pytest.mark.parametrize("name", LEARNERS)
def test_heads_of_one_class_and_value_of_zero_are_predicted_as_such(name: str) -> None:
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
    """Fitted anew on the examples that it was fitted on, a baseline says the same; on turned labels, the opposite."""
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


# BG/NBD: order histories ----------------------------------------------------------------------------


def test_orders_of_one_day_are_one_and_their_values_add_up() -> None:
    log = log_of((0, 0, 10), (0, 0.5, 20), (0, 14, 50), (1, 3, 5))
    s = summaries(log, np.array([0, 1]), np.full(2, (DAY_0 + 21) * DAY_S))
    assert s.orders.tolist() == [2, 1] and s.repeats.tolist() == [1, 0]
    assert (s.recency.tolist(), s.age.tolist()) == ([2, 0], [3, 18 / 7])
    assert s.value.tolist() == [40, 5]


def test_summaries_count_orders_up_to_the_second_and_no_later_one_of_the_day() -> None:
    log = log_of((0, 0, 10), (0, 7.25, 20), (0, 7.75, 40))
    at = np.round((DAY_0 + np.array([7.25 - 1 / DAY_S, 7.25, 7.5, 7.75])) * DAY_S).astype(np.int64)
    s = summaries(log, np.zeros(4, np.int64), at)
    assert s.orders.tolist() == [1, 2, 2, 2]
    assert s.value.tolist() == [10, 15, 15, 35]
    assert s.recency.tolist() == [0, 1, 1, 1]


def test_events_that_the_state_refused_do_not_count() -> None:
    log = log_of((0, 0, 10), (0, 7, 20))
    s = summaries(log, np.array([0]), np.array([(DAY_0 + 14) * DAY_S]), accepted=np.array([True, False]))
    assert (s.orders.tolist(), s.value.tolist()) == ([1], [10])


def test_a_user_without_orders_ages_from_the_first_event() -> None:
    log = log_of((0, 0, 0), (0, 7, 0), type_=EventType.VIEW)
    s = summaries(log, np.array([0]), np.array([(DAY_0 + 14) * DAY_S]))
    assert (s.orders.tolist(), s.recency.tolist(), s.age.tolist(), s.value.tolist()) == ([0], [0], [2], [0])


# BG/NBD: the model ----------------------------------------------------------------------------------

TRUE = Orders(r=0.8, alpha=4.0, a=0.9, b=2.5)


def simulated(weeks: float, n: int = 12_000) -> tuple[Summaries, Array]:
    """Customers of :data:`TRUE` after 40 weeks, and their orders in the ``weeks`` after those."""
    rng = np.random.default_rng(5)
    gaps = rng.exponential(1 / rng.gamma(TRUE.r, 1 / TRUE.alpha, (n, 1)), (n, 200))
    leaves = rng.random((n, 200)) < rng.beta(TRUE.a, TRUE.b, (n, 1))
    times = np.cumsum(gaps, axis=1)
    times[np.cumsum(leaves, axis=1) - leaves > 0] = np.inf
    repeats, later = (times <= 40).sum(axis=1), ((times > 40) & (times <= 40 + weeks)).sum(axis=1)
    recency = np.where(times <= 40, times, 0).max(axis=1)
    return Summaries(repeats + 1, recency, np.full(n, 40.0), np.ones(n)), later


def test_a_fit_finds_the_parameters_that_made_the_data() -> None:
    s, _ = simulated(10)
    found = Orders.fit(s)
    assert (found.r, found.alpha, found.a, found.b) == pytest.approx((TRUE.r, TRUE.alpha, TRUE.a, TRUE.b), rel=0.25)
    assert found.log_likelihood >= TRUE.of(s).sum()


@pytest.mark.parametrize("weeks", [8.0, 20.0])
def test_predictions_are_what_happens_to_customers_of_every_history(weeks: float) -> None:
    s, later = simulated(weeks)
    buys, expected = TRUE.any_order(s, weeks), TRUE.expected_orders(s, weeks)
    for group in (s.repeats == 0, (s.repeats > 0) & (s.recency < 20), s.repeats > 3):
        assert buys[group].mean() == pytest.approx((later[group] > 0).mean(), abs=0.03)
        assert expected[group].mean() == pytest.approx(later[group].mean(), rel=0.15)


def test_expected_orders_are_smooth_where_the_equation_is_zero_over_zero() -> None:
    s, _ = simulated(10, 50)
    below, at, above = (Orders(0.8, 4.0, a, 2.5).expected_orders(s, 10) for a in (0.999, 1.0, 1.001))
    assert at == pytest.approx((below + above) / 2, rel=1e-4)


def test_customers_who_never_came_back_can_be_fitted() -> None:
    once = Summaries(np.ones(30, np.int64), np.zeros(30), np.linspace(1, 40, 30), np.ones(30))
    orders = Orders.fit(once)
    assert np.isfinite(orders.expected_orders(once, 10)).all()
    assert orders.any_order(once, 10).max() < 0.01


def test_value_of_an_order_is_drawn_to_the_mean_less_the_more_orders_there_are() -> None:
    worth = GammaGamma(p=6.0, q=4.0, gamma=15.0, typical=33.0)
    few, many, none = worth.expected(np.array([1, 100, 0]), np.array([100.0, 100.0, 0.0]))
    assert none == 33 < few < many < 100


def random_log(until: float = 200.0, seed: int = 6) -> EventLog:
    rng = np.random.default_rng(seed)
    days = rng.integers(0, 200, 600)
    orders = zip(rng.integers(0, 60, 600).tolist(), days.tolist(), rng.lognormal(3, 1, 600).tolist(), strict=True)
    return log_of(*(order for order in orders if order[1] <= until))


def at_day(day: int, users: int = 60) -> Examples:
    return examples(user=np.arange(users), as_of=np.full(users, (DAY_0 + day) * DAY_S))


def test_bgnbd_sees_nothing_after_an_example_nor_after_the_first_validation_instant_to_fit() -> None:
    every, cut = BgNbd(random_log()), BgNbd(random_log(until=120))
    for baseline in (every, cut):
        baseline.fit(at_day(80), at_day(120), LABELS)
    known, same = every.predict(at_day(120)), cut.predict(at_day(120))
    assert np.array_equal(known.logits, same.logits) and np.array_equal(known.value, same.value)
    assert not np.array_equal(every.predict(at_day(160)).logits, cut.predict(at_day(160)).logits)


def test_bgnbd_churn_is_the_absence_of_an_order() -> None:
    baseline = BgNbd(random_log())
    baseline.fit(at_day(80), at_day(120), Labels(60, 30, (7, 30), 30))
    logits = baseline.predict(at_day(120)).logits
    assert logits[:, 0] == pytest.approx(-logits[:, 2])
    assert (logits[:, 1] < logits[:, 2]).all()


def test_bgnbd_without_prices_predicts_no_value_and_without_orders_says_so() -> None:
    free = BgNbd(log_of((0, 0, 0), (0, 9, 0), (1, 3, 0)))
    free.fit(at_day(10, 2), at_day(20, 2), LABELS)
    assert not free.predict(at_day(20, 2)).value.any()
    with pytest.raises(ConfigError, match="no customer with an order"):
        BgNbd(log_of((0, 0, 0), type_=EventType.VIEW)).fit(at_day(10, 1), at_day(20, 1), LABELS)


# BG/NBD: the published numbers ----------------------------------------------------------------------


def seconds(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


#: The last second of the 39 weeks on which the published parameters were fitted.
CALIBRATED = seconds(1997, 10, 1) - 1


def everyone(log: EventLog, second: int, accepted: Array | None = None) -> Summaries:
    users = np.arange(len(log.names))
    return summaries(log, users, np.full(len(users), second), accepted)


@pytest.fixture(scope="module")
def sample(data_dir: Path) -> EventLog:
    return load(DataConfig(str(data_dir / "cdnow_sample.txt.gz"), "cdnow"))


@pytest.mark.data
def test_bgnbd_has_the_published_parameters_on_the_cdnow_sample(sample: EventLog) -> None:
    fit = Orders.fit(everyone(sample, CALIBRATED))
    assert [round(x, 3) for x in (fit.r, fit.alpha, fit.a, fit.b)] == [0.243, 4.414, 0.793, 2.426]
    assert round(fit.log_likelihood, 1) == -9582.4


@pytest.mark.data
def test_gamma_gamma_has_the_published_parameters_on_the_repeat_orders_of_the_cdnow_sample(sample: EventLog) -> None:
    day = sample.rows["time"].astype(np.int64) // DAY_S
    first_day = np.full(len(sample.names), day.max())
    np.minimum.at(first_day, sample.users, day)
    repeat = everyone(sample, CALIBRATED, accepted=day > first_day[sample.users])
    repeat = repeat.take(repeat.value > 0)
    fit = GammaGamma.fit(repeat.orders, repeat.value)
    assert len(repeat.orders) == 946
    assert (fit.p, fit.q, fit.gamma) == pytest.approx((6.25, 3.74, 15.44), abs=0.01)


@pytest.mark.data
def test_bgnbd_reaches_the_known_floors_on_cdnow(data_dir: Path) -> None:
    log = load(DataConfig(str(data_dir / "cdnow_master.txt.gz"), "cdnow"))
    instant, weeks = seconds(1998, 4, 1) - 1, 90 / WEEKS
    s, end = everyone(log, instant), everyone(log, instant + 90 * DAY_S)
    paid = s.take(s.value > 0)
    orders, worth = Orders.fit(s), GammaGamma.fit(paid.orders, paid.value)
    spent = end.value * end.orders - s.value * s.orders
    assert auc(rank_predictions(orders.any_order(s, weeks), (end.orders > s.orders).astype(float))) >= 0.83
    assert gini(rank_predictions(orders.expected_orders(s, weeks) * worth.expected(s.orders, s.value), spent)) >= 0.769


def test_log_odds_and_probability_are_inverse() -> None:
    p = np.linspace(0.01, 0.99, 20)
    assert sigmoid(log_odds(p)) == pytest.approx(p)
