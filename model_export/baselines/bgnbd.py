"""BG/NBD (Fader, Hardie & Lee 2005) and Gamma-Gamma (Fader & Hardie 2013): the order history alone.

A customer orders at a rate drawn from Gamma(r, alpha) and may leave for good after each order, with odds drawn from
Beta(a, b). Value is the expected number of orders in the horizon times the expected worth of one. As only orders are
seen, churn is the probability of no order. Time is in weeks; several orders of one UTC day are one.

Own code: PyPI Lifetimes 0.11.3 gives the same CDNOW parameters, but raises ConvergenceError on UCI Online Retail and
Tmall, where the best a and b are at 0 or infinity; here they stop at a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln, hyp2f1

from model_export.baselines import Predicted, log_odds
from model_export.data.event_log import EventLog
from model_export.data.examples import Examples
from stream.contract.columns import DAY_S
from stream.contract.events import VALUE_SCALE, EventType
from stream.contract.manifest import Labels
from stream.errors import ConfigError

__all__ = ["BgNbd", "GammaGamma", "Orders", "Summaries", "summaries"]

Array = npt.NDArray[Any]
_WEEK: Final = 7.0
#: Bounds of a fitted parameter: beyond them, the likelihood of any shop's data is flat.
_LEAST: Final = 1e-3
_MOST: Final = 1e3
_STEPS_MAX: Final = 1_000
_BESIDE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Summaries:
    """Order histories ``(n,)`` at an instant: days with an order, and weeks from the first to the last and to now.

    Without an order the age counts from the user's first event, and the user passes for one with a single order.
    """

    orders: npt.NDArray[np.int64]
    recency: npt.NDArray[np.float64]
    age: npt.NDArray[np.float64]
    #: Mean value of a day with an order, in currency units; 0 without one.
    value: npt.NDArray[np.float64]

    @property
    def repeats(self) -> npt.NDArray[np.int64]:
        """Days with an order after the first, which are what BG/NBD counts."""
        return np.maximum(self.orders - 1, 0)

    def take(self, rows: Array) -> Summaries:
        """These rows only."""
        return Summaries(self.orders[rows], self.recency[rows], self.age[rows], self.value[rows])


def summaries(log: EventLog, users: Array, as_of: Array, accepted: Array | None = None) -> Summaries:
    """What ``users`` (n,) had ordered up to and with second ``as_of`` (n,), each with some ``accepted`` event."""
    counted = np.ones(len(log), bool) if accepted is None else accepted
    time = log.rows["time"].astype(np.int64)
    everything = _Index.of(log.users[counted], time[counted], log.rows["value"][counted])
    bought = counted & (log.rows["type"] == EventType.PURCHASE)
    orders = _Index.of(log.users[bought], time[bought], log.rows["value"][bought])
    days, first, last, value = orders.at(users, as_of)
    _, first_event, _, _ = everything.at(users, as_of)
    none = days == 0
    start = np.where(none, first_event, first)
    recency = np.where(none, 0, last - first)
    return Summaries(days, recency / _WEEK, (as_of // DAY_S - start) / _WEEK, value / VALUE_SCALE / np.maximum(days, 1))


@dataclass(frozen=True, slots=True)
class _Index:
    """Events by (user, second), with running counts of days and sums of value, in hundredths and so exact."""

    keys: Array
    day: Array
    days: Array
    value: Array

    @staticmethod
    def of(users: Array, time: Array, value: Array) -> _Index:
        keys = (users << 32) | time
        order = np.argsort(keys, kind="stable")
        users, day = users[order], time[order] // DAY_S
        new = np.ones(len(order), np.int64)
        new[1:] = (users[1:] != users[:-1]) | (day[1:] != day[:-1])
        sums = (np.concatenate(([0], np.cumsum(column, dtype=np.int64))) for column in (new, value[order]))
        return _Index(keys[order], np.append(day, 0), *sums)

    def at(self, users: Array, as_of: Array) -> tuple[Array, Array, Array, Array]:
        """Number of days with an event, first and last day since 1970 (any number if none), and sum of value."""
        begin = np.searchsorted(self.keys, users << 32)
        end = np.searchsorted(self.keys, (users << 32) | as_of, "right")
        return (
            self.days[end] - self.days[begin],
            self.day[begin],
            self.day[end - 1],
            self.value[end] - self.value[begin],
        )


@dataclass(frozen=True, slots=True)
class Orders:
    """A fitted BG/NBD, with the log-likelihood of the data that it was fitted on."""

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float = float("nan")

    @staticmethod
    def fit(s: Summaries) -> Orders:
        """Maximum likelihood over customers, each with at least one order."""
        (r, alpha, a, b), log_likelihood = _maximise(lambda r, alpha, a, b: Orders(r, alpha, a, b).of(s), (_LEAST,) * 4)
        return Orders(r, alpha, a, b, log_likelihood)

    def of(self, s: Summaries) -> Array:
        """Log-likelihood ``(n,)`` of each customer (equation 6, with the two terms joined by their odds)."""
        x = s.repeats
        rate = gammaln(self.r + x) - gammaln(self.r) + self.r * np.log(self.alpha)
        stays = betaln(self.a, self.b + x) - betaln(self.a, self.b)
        alive = rate + stays - (self.r + x) * np.log(self.alpha + s.age)
        out: Array = alive + np.logaddexp(0, self._log_odds_gone(s))
        return out

    def alive(self, s: Summaries) -> Array:
        """Probability ``(n,)`` of not having left; 1 before the first repeat."""
        out: Array = expit(-self._log_odds_gone(s))
        return out

    def any_order(self, s: Summaries, weeks: float) -> Array:
        """Probability ``(n,)`` of at least one order within ``weeks``.

        Who is alive orders at a rate drawn from Gamma(r + x, alpha + T), and cannot leave before the next order.
        """
        none = np.exp((self.r + s.repeats) * (np.log(self.alpha + s.age) - np.log(self.alpha + s.age + weeks)))
        out: Array = self.alive(s) * (1 - none)
        return out

    def expected_orders(self, s: Summaries, weeks: float) -> Array:
        """Expected orders ``(n,)`` within ``weeks`` (equation 10, after Euler's transformation of 2F1).

        The transformation takes the count of orders out of the exponent, so that it cannot overflow. At a = 1, the
        equation is 0 / 0 but smooth: it is taken beside.
        """
        a = self.a if abs(self.a - 1) > _BESIDE else 1 + _BESIDE
        b, x = self.b, s.repeats
        now = self.alpha + s.age
        later = hyp2f1(a + b - 1 - self.r, a - 1, a + b + x - 1, weeks / (now + weeks))
        out: Array = (a + b + x - 1) / (a - 1) * (1 - (now / (now + weeks)) ** (a - 1) * later) * self.alive(s)
        return out

    def _log_odds_gone(self, s: Summaries) -> Array:
        x = s.repeats
        odds = np.log(self.a) - np.log(self.b + np.maximum(x, 1) - 1)
        silent = (self.r + x) * (np.log(self.alpha + s.age) - np.log(self.alpha + s.recency))
        return np.where(x > 0, odds + silent, -np.inf)


@dataclass(frozen=True, slots=True)
class GammaGamma:
    """A fitted Gamma-Gamma model of the value of an order: shape p, and q, gamma of its scale over customers."""

    p: float
    q: float
    gamma: float
    #: What to expect of a customer without orders: the mean over those fitted.
    typical: float = 0.0

    @staticmethod
    def fit(n: Array, mean: Array) -> GammaGamma:
        """Maximum likelihood over customers with ``n`` orders of ``mean`` value, both above 0; q stays above 1.

        Below 1 the mean over customers would not exist. The fit is on values over their mean, whatever the currency.
        """
        typical = float(mean.mean())
        relative = mean / typical
        (p, q, gamma), _ = _maximise(lambda p, q, gamma: GammaGamma(p, q, gamma).of(n, relative), (_LEAST, 1.0, _LEAST))
        return GammaGamma(p, q, gamma * typical, typical)

    def of(self, n: Array, mean: Array) -> Array:
        """Log-likelihood ``(customers,)`` of each mean value (equation 1a)."""
        p, q, gamma = self.p, self.q, self.gamma
        shape = q * np.log(gamma) - betaln(p * n, q) + p * n * np.log(n)
        out: Array = shape + (p * n - 1) * np.log(mean) - (p * n + q) * np.log(gamma + n * mean)
        return out

    def expected(self, n: Array, mean: Array) -> Array:
        """Expected value of an order ``(customers,)`` (equation 5): the customer's own mean, drawn to everyone's."""
        seen = np.maximum(n, 1)
        return np.where(n > 0, self.p * (self.gamma + seen * mean) / (self.p * seen + self.q - 1), self.typical)


class BgNbd:
    """The baseline: fitted on the customers known at the first validation instant, whatever the training examples."""

    def __init__(self, log: EventLog, accepted: Array | None = None) -> None:
        self._log, self._accepted = log, accepted

    def fit(self, train: Examples, validation: Examples, labels: Labels) -> None:  # noqa: ARG002
        """Fit on all events up to the first validation instant, none of which a label is made of."""
        self._labels = labels
        self._fit(int(validation.as_of.min()))

    def refit(self, recent: Examples, as_of: int) -> None:  # noqa: ARG002
        """Fit on all events up to ``as_of``: without labels, there is nothing to wait for."""
        self._fit(as_of)

    def _fit(self, as_of: int) -> None:
        ordered = self._log.rows["type"] == EventType.PURCHASE
        users = np.unique(self._log.users[ordered & (self._log.rows["time"] <= as_of)])
        known = summaries(self._log, users, np.full(len(users), as_of), self._accepted)
        known = known.take(known.orders > 0)
        if not len(known.orders):
            raise ConfigError(
                "BG/NBD found no customer with an order before the validation window, expected at least one; "
                "give data with orders, or leave this baseline out"
            )
        self._orders = Orders.fit(known)
        paid = known.take(known.value > 0)
        self._worth = GammaGamma.fit(paid.orders, paid.value) if len(paid.orders) else None

    def predict(self, examples: Examples) -> Predicted:
        """Scores of ``examples``, from their users' orders up to their instants."""
        s = summaries(self._log, examples.user, examples.as_of, self._accepted)
        labels = self._labels
        churn = 1 - self._orders.any_order(s, labels.churn_days / _WEEK)
        buys = [self._orders.any_order(s, days / _WEEK) for days in labels.purchase_days]
        worth = self._worth.expected(s.orders, s.value) if self._worth else np.zeros(len(examples))
        value = self._orders.expected_orders(s, labels.value_days / _WEEK) * worth
        return Predicted(log_odds(np.column_stack((churn, *buys))), value)


def _maximise(log_likelihood: Callable[..., Array], least: Sequence[float]) -> tuple[list[float], float]:
    """Positive parameters of greatest likelihood, none below its ``least``: L-BFGS-B on their logarithms, from 1."""
    found = minimize(
        lambda logs: -float(log_likelihood(*np.exp(logs)).mean()),
        np.zeros(len(least)),
        method="L-BFGS-B",
        jac="3-point",
        bounds=[(np.log(low), np.log(_MOST)) for low in least],
        options={"ftol": 1e-13, "gtol": 1e-8, "maxiter": _STEPS_MAX},
    )
    parameters = np.exp(found.x).tolist()
    return parameters, float(log_likelihood(*parameters).sum())
