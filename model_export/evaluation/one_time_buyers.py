"""Sanity: who has ordered once and stays away is ever less likely to order, and the model must say so.

P(alive)-style models (Fader, Hardie & Lee 2005) have this by construction; a network must show it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from model_export.data.examples import Examples
from stream.contract.tokens import FEATURES
from stream.score.calibration import wilson

__all__ = ["Tenth", "one_time_buyers"]

Array = npt.NDArray[Any]
_TENTHS: Final = 10


class Tenth(msgspec.Struct, frozen=True):
    """One-time buyers of like time since their order: what was predicted, and what share did order again."""

    #: Mean days since the order.
    days: float
    n: int
    predicted: float
    observed: float
    #: 95 % Wilson interval of ``observed``.
    interval: tuple[float, float]


def one_time_buyers(examples: Examples, probability: Array, head: int = -1) -> list[Tenth]:
    """Tenths by time since the order, the newest first; none where fewer than ten users have one order.

    ``probability`` (n,) is that of an order in the purchase horizon ``head``, the last unless said otherwise.
    """
    orders = np.rint(np.expm1(examples.features[:, FEATURES.index("orders")]))
    days = np.expm1(examples.features[:, FEATURES.index("order_recency")].astype(np.float64))
    once = np.flatnonzero(orders == 1)
    if len(once) < _TENTHS:
        return []
    rows = np.array_split(once[np.argsort(days[once], kind="stable")], _TENTHS)
    return [_tenth(days[r], probability[r], examples.purchase[r, head]) for r in rows]


def _tenth(days: Array, probability: Array, bought: Array) -> Tenth:
    share = float(bought.mean())
    low, high = wilson(np.array(share), np.array(len(bought)))
    return Tenth(float(days.mean()), len(bought), float(probability.mean()), share, (float(low), float(high)))
