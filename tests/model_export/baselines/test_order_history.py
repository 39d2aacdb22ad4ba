"""Order history: it counts days with an order up to the second, and nothing that comes later."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.baselines.order_history import order_history
from stream.contract.columns import DAY_S
from stream.contract.events import EventType
from tests.model_export.baselines.order_logs import DAY_0, log_of

Array = npt.NDArray[Any]


def test_orders_of_one_day_count_once_and_their_values_add_up() -> None:
    log = log_of((0, 0, 10), (0, 0.5, 20), (0, 14, 50), (1, 3, 5))
    history = order_history(log, np.array([0, 1]), np.full(2, (DAY_0 + 21) * DAY_S))
    assert history.orders.tolist() == [2, 1] and history.repeats.tolist() == [1, 0]
    assert (history.recency.tolist(), history.age.tolist()) == ([2, 0], [3, 18 / 7])
    assert history.value.tolist() == [40, 5]


def test_orders_count_up_to_the_second_and_not_later_on_the_same_day() -> None:
    log = log_of((0, 0, 10), (0, 7.25, 20), (0, 7.75, 40))
    at = np.round((DAY_0 + np.array([7.25 - 1 / DAY_S, 7.25, 7.5, 7.75])) * DAY_S).astype(np.int64)
    history = order_history(log, np.zeros(4, np.int64), at)
    assert history.orders.tolist() == [1, 2, 2, 2]
    assert history.value.tolist() == [10, 15, 15, 35]
    assert history.recency.tolist() == [0, 1, 1, 1]


def test_events_that_the_state_refused_do_not_count() -> None:
    log = log_of((0, 0, 10), (0, 7, 20))
    history = order_history(log, np.array([0]), np.array([(DAY_0 + 14) * DAY_S]), accepted=np.array([True, False]))
    assert (history.orders.tolist(), history.value.tolist()) == ([1], [10])


def test_a_user_without_orders_ages_from_the_first_event() -> None:
    log = log_of((0, 0, 0), (0, 7, 0), type_=EventType.VIEW)
    history = order_history(log, np.array([0]), np.array([(DAY_0 + 14) * DAY_S]))
    assert (history.orders.tolist(), history.recency.tolist(), history.age.tolist(), history.value.tolist()) == (
        [0],
        [0],
        [2],
        [0],
    )
