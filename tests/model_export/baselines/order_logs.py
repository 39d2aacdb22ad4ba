"""Logs of orders for the tests of baselines, and examples with only some columns filled."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.data.event_log import EventLog
from model_export.data.examples import Examples
from stream.contract.columns import DAY_S
from stream.contract.events import EVENT, EventType
from stream.contract.manifest import Labels
from stream.contract.tokens import FEATURES

Array = npt.NDArray[Any]
LABELS = Labels(60, 14, (7, 30), 30)
DAY_0 = 19_000


def log_of(*orders: tuple[int, float, float], type_: EventType = EventType.PURCHASE) -> EventLog:
    """A log of events (user, day, value); they are purchases by default."""
    users, days, values = (np.array(column) for column in zip(*sorted(orders, key=lambda o: o[1]), strict=True))
    rows = np.zeros(len(users), EVENT)
    rows["time"] = (DAY_0 + days) * DAY_S
    rows["value"], rows["type"] = np.round(values * 100), type_
    names, unread = [f"u{u}" for u in range(users.max() + 1)], np.full(len(rows), np.nan, np.float32)
    return EventLog(names, users.astype(np.int64), rows, Counter(), {}, unread)


def examples(**columns: Array) -> Examples:
    """Examples with these columns; all other columns are zero."""
    n = len(columns["user"])
    blank = {f.name: np.zeros(n, np.int64) for f in fields(Examples)}
    return Examples(**{**blank, "features": np.zeros((n, len(FEATURES)), np.float32), **columns})


def random_log(until: float = 200.0, seed: int = 6) -> EventLog:
    rng = np.random.default_rng(seed)
    days = rng.integers(0, 200, 600)
    orders = zip(rng.integers(0, 60, 600).tolist(), days.tolist(), rng.lognormal(3, 1, 600).tolist(), strict=True)
    return log_of(*(order for order in orders if order[1] <= until))


def at_day(day: int, users: int = 60) -> Examples:
    return examples(user=np.arange(users), as_of=np.full(users, (DAY_0 + day) * DAY_S))
