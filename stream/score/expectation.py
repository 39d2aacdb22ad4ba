"""Expectation: what a user's probabilities amount to: value and its interval, the next order's day, categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["days_to_purchase", "expected_value", "log_normal", "top_categories", "value_interval"]

Array = npt.NDArray[Any]
#: Log-sigma of the value of a buyer is kept below ln 2: exp(mu + sigma²/2) explodes for wide tails.
_LOG_SIGMA_MAX: Final = float(np.log(2.0))
#: No user is worth more than this in one horizon; beyond it the log-normal is extrapolating.
_LOG_VALUE_MAX: Final = float(np.log(1e7))
#: Quantiles that bound the 80 % interval of value.
_BOUNDS: Final = np.array([0.1, 0.9])
#: The standard normal distribution at steps of 1/100; read backwards, linear between, its quantiles to 2e-5.
_Z: Final = np.linspace(-8.0, 8.0, 1_601)
_NORMAL: Final = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in _Z.tolist()])
#: Keeps the hazard of a certain purchase finite.
_CERTAIN: Final = 1 - 1e-12
_LN2: Final = math.log(2)


def log_normal(value: Array) -> tuple[Array, Array]:
    """mu and sigma, each ``(n,)``, of the raw output ``value`` (n, 2: mu and log-sigma), sigma clamped."""
    raw = value.astype(np.float64)
    return raw[:, 0], np.exp(np.minimum(raw[:, 1], _LOG_SIGMA_MAX))


def expected_value(buys: Array, value: Array) -> Array:
    """Mean of the zero-inflated log-normal, ``p · exp(mu + sigma²/2)`` (Wang, Liu & Miao 2019), sigma clamped."""
    mu, sigma = log_normal(value)
    return np.asarray(buys * np.exp(np.minimum(mu + sigma**2 / 2, _LOG_VALUE_MAX)))


def value_interval(buys: Array, value: Array, sigma_factor: float, shift: float) -> Array:
    """10 % and 90 % quantile ``(n, 2)`` of the zero-inflated log-normal, sigma scaled, median moved by sigmas.

    With probability 1 - p the value is 0, so quantile q is 0 up to there, and above it a buyer's quantile at
    (q - (1 - p)) / p.

    >>> buys, value = np.array([0.05, 1.0]), np.array([[3.0, 0.0], [3.0, 0.0]])
    >>> value_interval(buys, value, 1.0, 0.0).round(2).tolist()
    [[0.0, 0.0], [5.58, 72.35]]
    """
    mu, sigma = log_normal(value)
    buyer = 1 - (1 - _BOUNDS) / np.maximum(buys, 1e-12)[:, None]
    z = np.interp(buyer, _NORMAL, _Z)
    quantile = np.exp(np.minimum(mu[:, None] + sigma[:, None] * (sigma_factor * z + shift), _LOG_VALUE_MAX))
    return np.where(buyer > 0, quantile, 0.0)


def days_to_purchase(buys: Array, horizon_days: Sequence[float]) -> Array:
    """Median days ``(n,)`` to the next order, of the probability ``buys`` (n, horizons) of one by each horizon.

    The hazard is constant between horizons and goes on as in the last (piecewise exponential, Friedman 1982): the
    cumulative hazard is ``-ln(1 - p)`` at each, linear between, and ln 2 at the median. Infinite where it never is.

    >>> days_to_purchase(np.array([[0.5, 0.6], [0.25, 0.4375], [0.0, 0.0]]), (10, 20)).round(6).tolist()
    [10.0, 24.094208, inf]
    """
    order, days, widths = _pieces(tuple(horizon_days))
    # Heads are calibrated one by one: a longer horizon may come out less likely, which no hazard can follow.
    by_then = np.maximum.accumulate(np.minimum(buys.T[order], _CERTAIN), axis=0)
    hazard = np.zeros((len(days), len(buys)))
    hazard[1:] = -np.log1p(-by_then)
    piece = np.minimum(np.add.reduce(hazard[1:] < _LN2, axis=0), len(order) - 1)
    users = np.arange(len(buys))
    rate = ((hazard[1:] - hazard[:-1]) / widths)[piece, users]
    left = _LN2 - hazard[piece, users]
    return np.asarray(days.take(piece) + np.divide(left, rate, out=np.full(len(buys), np.inf), where=rate > 0))


@cache
def _pieces(horizon_days: tuple[float, ...]) -> tuple[Array, Array, Array]:
    """Order of the horizons, the days from 0 on between which hazards are constant, and their distances (k, 1)."""
    days = np.array([0.0, *sorted(horizon_days)])
    return np.argsort(horizon_days), days, np.diff(days)[:, None]


def top_categories(logits: Array, temperature: float, k: int) -> tuple[Array, Array]:
    """Classes and probabilities, each ``(n, min(k, K))``, of the best of logits ``(n, K)``, best first.

    >>> classes, p = top_categories(np.log([[0.2, 0.5, 0.3]]), 1.0, 2)
    >>> classes.tolist(), p.round(6).tolist()
    ([[1, 2]], [[0.5, 0.3]])
    """
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - np.maximum.reduce(scaled, axis=1, keepdims=True, initial=-np.inf))
    share = weights / np.add.reduce(weights, axis=1, keepdims=True)
    classes = np.argsort(-scaled, axis=1, kind="stable")[:, :k]
    return classes, share[np.arange(len(logits))[:, None], classes]
