"""BG/NBD: it finds the parameters that made the data, sees nothing of the future, and has the published parameters."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model_export.baselines.bgnbd import BgNbd, GammaGamma, OrderModel
from model_export.baselines.order_history import OrderHistory, order_history
from model_export.data.event_log import DataConfig, EventLog, load
from model_export.metrics.measures import auc, gini
from model_export.metrics.ranking import rank_predictions
from stream.contract.columns import DAY_S
from stream.contract.events import EventType
from stream.contract.manifest import Labels
from stream.errors import ConfigError
from tests.model_export.baselines.order_logs import LABELS, at_day, log_of, random_log

Array = npt.NDArray[Any]
WEEKS = 7.0

TRUE = OrderModel(r=0.8, alpha=4.0, a=0.9, b=2.5)


def simulated(weeks: float, n: int = 12_000) -> tuple[OrderHistory, Array]:
    """Customers of :data:`TRUE` after 40 weeks, and the number of their orders in the ``weeks`` after that."""
    rng = np.random.default_rng(5)
    gaps = rng.exponential(1 / rng.gamma(TRUE.r, 1 / TRUE.alpha, (n, 1)), (n, 200))
    leaves = rng.random((n, 200)) < rng.beta(TRUE.a, TRUE.b, (n, 1))
    times = np.cumsum(gaps, axis=1)
    times[np.cumsum(leaves, axis=1) - leaves > 0] = np.inf
    repeats, later = (times <= 40).sum(axis=1), ((times > 40) & (times <= 40 + weeks)).sum(axis=1)
    recency = np.where(times <= 40, times, 0).max(axis=1)
    return OrderHistory(repeats + 1, recency, np.full(n, 40.0), np.ones(n)), later


def test_a_fit_finds_the_parameters_that_made_the_data() -> None:
    history, _ = simulated(10)
    found = OrderModel.fit(history)
    assert (found.r, found.alpha, found.a, found.b) == pytest.approx((TRUE.r, TRUE.alpha, TRUE.a, TRUE.b), rel=0.25)
    assert found.log_likelihood >= TRUE.log_likelihoods(history).sum()


@pytest.mark.parametrize("weeks", [8.0, 20.0])
def test_predictions_come_true_for_customers_of_every_history(weeks: float) -> None:
    history, later = simulated(weeks)
    buys, expected = TRUE.any_order(history, weeks), TRUE.expected_orders(history, weeks)
    for group in (history.repeats == 0, (history.repeats > 0) & (history.recency < 20), history.repeats > 3):
        assert buys[group].mean() == pytest.approx((later[group] > 0).mean(), abs=0.03)
        assert expected[group].mean() == pytest.approx(later[group].mean(), rel=0.15)


def test_expected_orders_are_smooth_at_the_point_where_the_equation_is_zero_over_zero() -> None:
    history, _ = simulated(10, 50)
    below, at, above = (OrderModel(0.8, 4.0, a, 2.5).expected_orders(history, 10) for a in (0.999, 1.0, 1.001))
    assert at == pytest.approx((below + above) / 2, rel=1e-4)


def test_customers_who_never_came_back_can_be_fitted() -> None:
    once = OrderHistory(np.ones(30, np.int64), np.zeros(30), np.linspace(1, 40, 30), np.ones(30))
    orders = OrderModel.fit(once)
    assert np.isfinite(orders.expected_orders(once, 10)).all()
    assert orders.any_order(once, 10).max() < 0.01


def test_more_orders_draw_the_value_of_an_order_less_to_the_mean() -> None:
    value_model = GammaGamma(p=6.0, q=4.0, gamma=15.0, typical=33.0)
    few, many, none = value_model.expected(np.array([1, 100, 0]), np.array([100.0, 100.0, 0.0]))
    assert none == 33 < few < many < 100


def test_bgnbd_sees_nothing_after_an_example_and_fits_on_nothing_after_the_first_validation_instant() -> None:
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


def test_bgnbd_without_prices_predicts_no_value_and_without_orders_is_refused() -> None:
    free = BgNbd(log_of((0, 0, 0), (0, 9, 0), (1, 3, 0)))
    free.fit(at_day(10, 2), at_day(20, 2), LABELS)
    assert not free.predict(at_day(20, 2)).value.any()
    with pytest.raises(ConfigError, match="no customer with an order"):
        BgNbd(log_of((0, 0, 0), type_=EventType.VIEW)).fit(at_day(10, 1), at_day(20, 1), LABELS)


def seconds(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


#: The published parameters were fitted on 39 weeks, which end with this second.
LAST_SECOND = seconds(1997, 10, 1) - 1


def everyone(log: EventLog, second: int, accepted: Array | None = None) -> OrderHistory:
    users = np.arange(len(log.names))
    return order_history(log, users, np.full(len(users), second), accepted)


@pytest.fixture(scope="module")
def sample(data_dir: Path) -> EventLog:
    return load(DataConfig(str(data_dir / "cdnow_sample.txt.gz"), "cdnow"))


@pytest.mark.data
def test_bgnbd_has_the_published_parameters_on_the_cdnow_sample(sample: EventLog) -> None:
    fit = OrderModel.fit(everyone(sample, LAST_SECOND))
    assert [round(x, 3) for x in (fit.r, fit.alpha, fit.a, fit.b)] == [0.243, 4.414, 0.793, 2.426]
    assert round(fit.log_likelihood, 1) == -9582.4


@pytest.mark.data
def test_gamma_gamma_has_the_published_parameters_on_the_repeat_orders_of_the_cdnow_sample(sample: EventLog) -> None:
    day = sample.rows["time"].astype(np.int64) // DAY_S
    first_day = np.full(len(sample.names), day.max())
    np.minimum.at(first_day, sample.users, day)
    repeat = everyone(sample, LAST_SECOND, accepted=day > first_day[sample.users])
    repeat = repeat.take(repeat.value > 0)
    fit = GammaGamma.fit(repeat.orders, repeat.value)
    assert len(repeat.orders) == 946
    assert (fit.p, fit.q, fit.gamma) == pytest.approx((6.25, 3.74, 15.44), abs=0.01)


@pytest.mark.data
def test_bgnbd_reaches_the_known_floors_on_cdnow(data_dir: Path) -> None:
    log = load(DataConfig(str(data_dir / "cdnow_master.txt.gz"), "cdnow"))
    instant, weeks = seconds(1998, 4, 1) - 1, 90 / WEEKS
    history, end = everyone(log, instant), everyone(log, instant + 90 * DAY_S)
    paid = history.take(history.value > 0)
    orders, value_model = OrderModel.fit(history), GammaGamma.fit(paid.orders, paid.value)
    spent = end.value * end.orders - history.value * history.orders
    assert auc(rank_predictions(orders.any_order(history, weeks), (end.orders > history.orders).astype(float))) >= 0.83
    assert (
        gini(
            rank_predictions(
                orders.expected_orders(history, weeks) * value_model.expected(history.orders, history.value), spent
            )
        )
        >= 0.769
    )
