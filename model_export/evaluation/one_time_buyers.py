"""One-time buyers: shows whether the model knows that users who ordered once and stay away order less and less.

P(alive)-style models (Fader, Hardie & Lee 2005) have this property by construction; a network must show it.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from model_export.data.examples import Examples
from stream.arrays import Floats, Numbers, Probabilities
from stream.contract.tokens import FEATURES
from stream.score.calibration import wilson

__all__ = ["Tenth", "one_time_buyers"]

_TENTHS: Final = 10


class Tenth(msgspec.Struct, frozen=True):
    """A tenth of the one-time buyers, by time since their order: what was predicted, and what share ordered again."""

    #: Mean days since the order.
    days: float
    n: int
    predicted: float
    observed: float
    #: 95 % Wilson interval of ``observed``.
    interval: tuple[float, float]


def one_time_buyers(examples: Examples, probability: Probabilities, head: int = -1) -> list[Tenth]:
    """Tenths by time since the order, the newest order first; empty if fewer than ten users have one order.

    ``probability`` (n,) is the predicted one of an order within the purchase horizon ``head``; by default the last.
    """
    orders = np.rint(np.expm1(examples.features[:, FEATURES.index("orders")]))
    days = np.expm1(examples.features[:, FEATURES.index("order_recency")].astype(np.float64))
    once = np.flatnonzero(orders == 1)
    if len(once) < _TENTHS:
        return []
    rows = np.array_split(once[np.argsort(days[once], kind="stable")], _TENTHS)
    return [_tenth(days[r], probability[r], examples.purchase[r, head]) for r in rows]


def _tenth(days: Floats, probability: Probabilities, bought: Numbers) -> Tenth:
    share = float(bought.mean())
    low, high = wilson(np.array(share), np.array(len(bought)))
    return Tenth(float(days.mean()), len(bought), float(probability.mean()), share, (float(low), float(high)))
