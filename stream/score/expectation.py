"""Expectation: what the outputs for a user amount to: value and its interval, the next order's day, categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np

from stream.arrays import Floats, Numbers, Probabilities, Slots

__all__ = ["days_to_purchase", "expected_value", "log_normal", "top_categories", "value_interval"]

#: The log-sigma of a buyer's value is limited to ln 2, because exp(mu + sigma²/2) explodes for wide tails.
_LOG_SIGMA_MAX: Final = float(np.log(2.0))
#: No user is worth more than this in one horizon. Beyond it the log-normal only extrapolates.
_LOG_VALUE_MAX: Final = float(np.log(1e7))
#: Quantiles that bound the 80 % interval of value.
_QUANTILES: Final = np.array([0.1, 0.9])
#: The standard normal distribution function in steps of 1/100. Linear interpolation from _NORMAL to _Z gives
#: its quantiles, exact to 2e-5.
_Z: Final = np.linspace(-8.0, 8.0, 1_601)
_NORMAL: Final = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in _Z.tolist()])
#: Largest probability of a purchase that is used. It keeps the hazard finite.
_P_MAX: Final = 1 - 1e-12
_LN2: Final = math.log(2)


def log_normal(value: Numbers) -> tuple[Floats, Floats]:
    """mu and sigma ``(n,)`` of a buyer's value; ``value`` is the raw output (n, 2: mu, log-sigma). Sigma is clamped."""
    raw = value.astype(np.float64)
    return raw[:, 0], np.exp(np.minimum(raw[:, 1], _LOG_SIGMA_MAX))


def expected_value(p_buy: Probabilities, value: Numbers) -> Floats:
    """Mean ``(n,)`` of the zero-inflated log-normal, ``p · exp(mu + sigma²/2)`` (Wang, Liu & Miao 2019).

    ``p_buy`` (n,) is the probability of an order, ``value`` (n, 2) the raw output; sigma is clamped.
    """
    mu, sigma = log_normal(value)
    return np.asarray(p_buy * np.exp(np.minimum(mu + sigma**2 / 2, _LOG_VALUE_MAX)))


def value_interval(p_buy: Probabilities, value: Numbers, sigma_factor: float, shift: float) -> Floats:
    """10 % and 90 % quantile ``(n, 2)`` of the zero-inflated log-normal.

    Sigma is multiplied by ``sigma_factor``, and the median is moved by ``shift`` sigmas. With probability 1 - p the
    value is 0. So quantile q is 0 if q ≤ 1 - p; otherwise it is a buyer's quantile at (q - (1 - p)) / p.

    >>> p_buy, value = np.array([0.05, 1.0]), np.array([[3.0, 0.0], [3.0, 0.0]])
    >>> value_interval(p_buy, value, 1.0, 0.0).round(2).tolist()
    [[0.0, 0.0], [5.58, 72.35]]
    """
    mu, sigma = log_normal(value)
    buyer_quantile = 1 - (1 - _QUANTILES) / np.maximum(p_buy, 1e-12)[:, None]
    z = np.interp(buyer_quantile, _NORMAL, _Z)
    quantile = np.exp(np.minimum(mu[:, None] + sigma[:, None] * (sigma_factor * z + shift), _LOG_VALUE_MAX))
    return np.where(buyer_quantile > 0, quantile, 0.0)


def days_to_purchase(p_buy: Probabilities, horizon_days: Sequence[float]) -> Floats:
    """Median days ``(n,)`` to the next order, given its probability ``p_buy`` (n, horizons) within each horizon.

    The hazard is constant between horizons, and after the last it stays as it was (piecewise exponential, Friedman
    1982). So the cumulative hazard is ``-ln(1 - p)`` at each horizon and linear between them. The median is where it
    reaches ln 2; it is infinite if that never happens.

    >>> days_to_purchase(np.array([[0.5, 0.6], [0.25, 0.4375], [0.0, 0.0]]), (10, 20)).round(6).tolist()
    [10.0, 24.094208, inf]
    """
    order, days, widths = _pieces(tuple(horizon_days))
    # Heads are calibrated one by one, so a longer horizon may come out less likely. No hazard can do that.
    by_then = np.maximum.accumulate(np.minimum(p_buy.T[order], _P_MAX), axis=0)
    hazard = np.zeros((len(days), len(p_buy)))
    hazard[1:] = -np.log1p(-by_then)
    piece = np.minimum(np.add.reduce(hazard[1:] < _LN2, axis=0), len(order) - 1)
    users = np.arange(len(p_buy))
    rate = ((hazard[1:] - hazard[:-1]) / widths)[piece, users]
    hazard_left = _LN2 - hazard[piece, users]
    return np.asarray(days.take(piece) + np.divide(hazard_left, rate, out=np.full(len(p_buy), np.inf), where=rate > 0))


@cache
def _pieces(horizon_days: tuple[float, ...]) -> tuple[Slots, Floats, Floats]:
    """Ascending order of the horizons, the days at which the pieces begin and end, and the pieces' widths (k, 1)."""
    days = np.array([0.0, *sorted(horizon_days)])
    return np.argsort(horizon_days), days, np.diff(days)[:, None]


def top_categories(logits: Numbers, temperature: float, k: int) -> tuple[Slots, Probabilities]:
    """The ``k`` most probable classes and their probabilities, each ``(n, min(k, K))``, of logits ``(n, K)``.

    The most probable comes first.

    >>> classes, p = top_categories(np.log([[0.2, 0.5, 0.3]]), 1.0, 2)
    >>> classes.tolist(), p.round(6).tolist()
    ([[1, 2]], [[0.5, 0.3]])
    """
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - np.maximum.reduce(scaled, axis=1, keepdims=True, initial=-np.inf))
    p = weights / np.add.reduce(weights, axis=1, keepdims=True)
    classes = np.argsort(-scaled, axis=1, kind="stable")[:, :k]
    return classes, p[np.arange(len(logits))[:, None], classes]
