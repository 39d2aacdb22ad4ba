"""BG/NBD (Fader, Hardie & Lee 2005) and Gamma-Gamma (Fader & Hardie 2013): a baseline on the order history alone.

A customer orders at a rate drawn from Gamma(r, alpha). After each order, the customer may leave for good, with a
probability drawn from Beta(a, b). Value is the expected number of orders in the horizon times the expected value of an
order. The model sees only orders, so churn is the probability of no order. Time is in weeks, and several orders of one
UTC day are one order.

This is our own code. PyPI Lifetimes 0.11.3 gives the same CDNOW parameters, but raises ConvergenceError on UCI Online
Retail and Tmall: the best a and b lie at 0 or infinity there. Here they stop at a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln, hyp2f1

from model_export.baselines.baseline import BaselineScores, log_odds
from model_export.baselines.order_history import DAYS_PER_WEEK, OrderHistory, order_history
from model_export.data.event_log import EventLog
from model_export.data.examples import Examples
from stream.arrays import Counts, Floats, Mask
from stream.contract.events import EventType
from stream.contract.manifest import Labels
from stream.errors import ConfigError

__all__ = ["BgNbd", "GammaGamma", "OrderModel"]

#: Bounds of a fitted parameter. Beyond them the likelihood is flat for the data of any shop.
_PARAMETER_MIN: Final = 1e-3
_PARAMETER_MAX: Final = 1e3
_STEPS_MAX: Final = 1_000
#: How far from 1 the parameter a is taken where the equation of expected orders would be 0 / 0.
_A_MARGIN: Final = 1e-6


@dataclass(frozen=True, slots=True)
class OrderModel:
    """A fitted BG/NBD, with the log-likelihood of the data that it was fitted on."""

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float = float("nan")

    @staticmethod
    def fit(history: OrderHistory) -> OrderModel:
        """Fit by maximum likelihood on customers with at least one order each."""
        (r, alpha, a, b), log_likelihood = _maximise(
            lambda r, alpha, a, b: OrderModel(r, alpha, a, b).log_likelihoods(history), (_PARAMETER_MIN,) * 4
        )
        return OrderModel(r, alpha, a, b, log_likelihood)

    def log_likelihoods(self, history: OrderHistory) -> Floats:
        """The log-likelihood ``(n,)`` of each customer (equation 6; its two terms are joined by their log-odds)."""
        x = history.repeats
        rate = gammaln(self.r + x) - gammaln(self.r) + self.r * np.log(self.alpha)
        stays = betaln(self.a, self.b + x) - betaln(self.a, self.b)
        alive = rate + stays - (self.r + x) * np.log(self.alpha + history.age)
        out: Floats = alive + np.logaddexp(0, self._log_odds_gone(history))
        return out

    def alive(self, history: OrderHistory) -> Floats:
        """The probability ``(n,)`` that each customer has not left; 1 before the second order."""
        out: Floats = expit(-self._log_odds_gone(history))
        return out

    def any_order(self, history: OrderHistory, weeks: float) -> Floats:
        """The probability ``(n,)`` of at least one order within ``weeks``.

        A customer who has not left orders at a rate drawn from Gamma(r + x, alpha + T), and cannot leave before the
        next order.
        """
        no_order = np.exp(
            (self.r + history.repeats) * (np.log(self.alpha + history.age) - np.log(self.alpha + history.age + weeks))
        )
        out: Floats = self.alive(history) * (1 - no_order)
        return out

    def expected_orders(self, history: OrderHistory, weeks: float) -> Floats:
        """Expected orders ``(n,)`` within ``weeks`` (equation 10, after Euler's transformation of 2F1).

        The transformation takes the number of orders out of the exponent, so that nothing can overflow. At a = 1 the
        equation is 0 / 0 but smooth, so a value of a next to 1 is taken.
        """
        a = self.a if abs(self.a - 1) > _A_MARGIN else 1 + _A_MARGIN
        b, x = self.b, history.repeats
        now = self.alpha + history.age
        later = hyp2f1(a + b - 1 - self.r, a - 1, a + b + x - 1, weeks / (now + weeks))
        out: Floats = (a + b + x - 1) / (a - 1) * (1 - (now / (now + weeks)) ** (a - 1) * later) * self.alive(history)
        return out

    def _log_odds_gone(self, history: OrderHistory) -> Floats:
        x = history.repeats
        odds = np.log(self.a) - np.log(self.b + np.maximum(x, 1) - 1)
        silent = (self.r + x) * (np.log(self.alpha + history.age) - np.log(self.alpha + history.recency))
        return np.where(x > 0, odds + silent, -np.inf)


@dataclass(frozen=True, slots=True)
class GammaGamma:
    """A fitted Gamma-Gamma model of the value of an order. p is its shape; q and gamma are those of its scale."""

    p: float
    q: float
    gamma: float
    #: The expected value of an order of a customer without orders: the mean over the customers of the fit.
    typical: float = 0.0

    @staticmethod
    def fit(n: Counts, mean: Floats) -> GammaGamma:
        """Fit by maximum likelihood on customers with ``n`` orders of ``mean`` value each, both above 0.

        q stays above 1: below, the mean over customers would not exist. Values are divided by their mean before the
        fit, so the currency does not matter.
        """
        typical = float(mean.mean())
        relative = mean / typical
        (p, q, gamma), _ = _maximise(
            lambda p, q, gamma: GammaGamma(p, q, gamma).log_likelihoods(n, relative),
            (_PARAMETER_MIN, 1.0, _PARAMETER_MIN),
        )
        return GammaGamma(p, q, gamma * typical, typical)

    def log_likelihoods(self, n: Counts, mean: Floats) -> Floats:
        """The log-likelihood ``(customers,)`` of each mean value (equation 1a)."""
        p, q, gamma = self.p, self.q, self.gamma
        shape = q * np.log(gamma) - betaln(p * n, q) + p * n * np.log(n)
        out: Floats = shape + (p * n - 1) * np.log(mean) - (p * n + q) * np.log(gamma + n * mean)
        return out

    def expected(self, n: Counts, mean: Floats) -> Floats:
        """The expected value of an order ``(customers,)`` (equation 5): the customer's mean, drawn to that of all."""
        seen = np.maximum(n, 1)
        return np.where(n > 0, self.p * (self.gamma + seen * mean) / (self.p * seen + self.q - 1), self.typical)


class BgNbd:
    """The baseline. It is fitted on all customers known at the first validation instant, not on the examples."""

    def __init__(self, log: EventLog, accepted: Mask | None = None) -> None:
        self._log, self._accepted = log, accepted

    def fit(self, train: Examples, validation: Examples, labels: Labels) -> None:  # noqa: ARG002
        """Fit on all events up to the first validation instant: no validation label is made of them."""
        self._labels = labels
        self._fit(int(validation.as_of.min()))

    def refit(self, recent: Examples, as_of: int) -> None:  # noqa: ARG002
        """Fit on all events up to ``as_of``. The model needs no labels, so there is nothing to wait for."""
        self._fit(as_of)

    def _fit(self, as_of: int) -> None:
        is_order = self._log.rows["type"] == EventType.PURCHASE
        users = np.unique(self._log.users[is_order & (self._log.rows["time"] <= as_of)])
        known = order_history(self._log, users, np.full(len(users), as_of), self._accepted)
        known = known.take(known.orders > 0)
        if not len(known.orders):
            raise ConfigError(
                "BG/NBD found no customer with an order before the validation split, expected at least one; "
                "give data with orders, or leave this baseline out"
            )
        self._order_model = OrderModel.fit(known)
        paid = known.take(known.value > 0)
        self._value_model = GammaGamma.fit(paid.orders, paid.value) if len(paid.orders) else None

    def predict(self, examples: Examples) -> BaselineScores:
        """Scores of ``examples``, from their users' orders up to their instants."""
        history = order_history(self._log, examples.user, examples.as_of, self._accepted)
        labels = self._labels
        churn = 1 - self._order_model.any_order(history, labels.churn_days / DAYS_PER_WEEK)
        buys = [self._order_model.any_order(history, days / DAYS_PER_WEEK) for days in labels.purchase_days]
        worth = (
            self._value_model.expected(history.orders, history.value) if self._value_model else np.zeros(len(examples))
        )
        value = self._order_model.expected_orders(history, labels.value_days / DAYS_PER_WEEK) * worth
        return BaselineScores(log_odds(np.column_stack((churn, *buys))), value)


def _maximise(log_likelihood: Callable[..., Floats], lower: Sequence[float]) -> tuple[list[float], float]:
    """Positive parameters of greatest likelihood, not below ``lower``: L-BFGS-B on their logarithms, starting at 1.

    Returns the parameters and their log-likelihood.
    """
    found = minimize(
        lambda logs: -float(log_likelihood(*np.exp(logs)).mean()),
        np.zeros(len(lower)),
        method="L-BFGS-B",
        jac="3-point",
        bounds=[(np.log(low), np.log(_PARAMETER_MAX)) for low in lower],
        options={"ftol": 1e-13, "gtol": 1e-8, "maxiter": _STEPS_MAX},
    )
    parameters = np.exp(found.x).tolist()
    return parameters, float(log_likelihood(*parameters).sum())
