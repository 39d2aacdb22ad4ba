"""Sessions: draw the shop sessions of many shoppers at once. :mod:`stream.datasets.market` describes the process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stream.arrays import Floats, Rows, Slots

__all__ = [
    "DAY_MS",
    "DRAWN_EVENT",
    "PRICES",
    "Crowd",
    "DrawnEvents",
    "Habits",
    "Kind",
    "draw_follow_ups",
    "draw_sessions",
]

DAY_MS: Final = 86_400_000
#: The prices of the products of a category: steps of 12 %, from 1.00 to about 7,700.
PRICES: Final = np.round(1.12 ** np.arange(80), 2)
_CENTS: Final = np.round(PRICES * 100).astype(np.int64)
_STEP: Final = np.log(1.12)

#: Durations in milliseconds.
Milliseconds: TypeAlias = NDArray[np.int64]
#: Events of the simulation: dtype :data:`DRAWN_EVENT`.
DrawnEvents: TypeAlias = NDArray[np.void]


class Kind(IntEnum):
    """What a simulated shopper does."""

    SEARCH = 0
    VIEW = 1
    WISH = 2
    CART = 3
    UNCART = 4
    ORDER = 5
    REFUND = 6
    REVIEW = 7


#: One event before it becomes JSON. ``price`` is an index into :data:`PRICES`; ``cents`` is the total of an order.
DRAWN_EVENT: Final = np.dtype(
    [
        ("time_ms", "<i8"),
        ("order", "<i8"),
        ("cents", "<i8"),
        ("user", "<i4"),
        ("items", "<i2"),
        ("kind", "u1"),
        ("category", "u1"),
        ("price", "u1"),
    ]
)


@dataclass(frozen=True)
class Habits:
    """All parameters of the market. The defaults give about 5 events a session and an order in every ninth session."""

    sessions_per_day: float = 0.5
    sessions_shape: float = 2.0
    hazard_shape: float = 2.0
    hazard_beta_days: float = 60.0
    price_median: float = 30.0
    price_spread_between: float = 0.6
    price_spread_within: float = 0.5
    taste: float = 0.3
    conversion_a: float = 2.0
    conversion_b: float = 3.0
    fading: float = 1.0
    fading_days: float = 7.0
    views_mean: float = 4.0
    search: float = 0.35
    wish: float = 0.05
    cart: float = 0.12
    uncart: float = 0.2
    gap_s: float = 25.0
    refund: float = 0.06
    review: float = 0.1
    ramp_days: float = 7.0

    @property
    def lifetime_mean_days(self) -> float:
        """Mean lifetime over all shoppers, β / (s − 1)."""
        return self.hazard_beta_days / (self.hazard_shape - 1)


@dataclass
class Crowd:
    """All shoppers so far, a row for each. Times are milliseconds since 1970; ``next_ms`` is infinite at the end."""

    arrived_ms: Floats
    churned_ms: Floats
    next_ms: Floats
    rate: Floats
    hazard: Floats
    price: Floats
    conversion: Floats
    mix: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, habits: Habits, arrived_ms: Floats, categories: int) -> Crowd:
        """Draw the hidden values of shoppers who arrive at these times. Each starts a session on arrival."""
        n, h = len(arrived_ms), habits
        hazard = rng.gamma(h.hazard_shape, 1 / h.hazard_beta_days, n)
        # At most a hundred years, so that even the smallest hazard gives a date that exists.
        lifetime_ms = np.minimum(rng.exponential(1, n) / hazard, 36_500) * DAY_MS
        taste = rng.dirichlet(np.full(categories, h.taste), n)
        return cls(
            arrived_ms=arrived_ms,
            churned_ms=np.floor(arrived_ms + lifetime_ms) + 1,
            next_ms=arrived_ms.copy(),
            rate=rng.gamma(h.sessions_shape, h.sessions_per_day / h.sessions_shape, n),
            hazard=hazard,
            price=h.price_median * np.exp(rng.normal(0, h.price_spread_between, n)),
            conversion=rng.beta(h.conversion_a, h.conversion_b, n),
            mix=np.cumsum(taste, axis=1, dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.rate)

    def joined(self, other: Crowd) -> Crowd:
        """This crowd, followed by the shoppers of the other one."""
        mine, theirs = vars(self), vars(other)
        return Crowd(**{name: np.concatenate([mine[name], theirs[name]]) for name in mine})

    def draw_next_sessions(self, rng: np.random.Generator, shoppers: Rows) -> None:
        """Draw the time of the next session of these shoppers, unless they will have left by then."""
        gap_days = rng.exponential(1, len(shoppers)) / self.rate[shoppers]
        next_ms = np.floor(self.next_ms[shoppers] + gap_days * DAY_MS)
        self.next_ms[shoppers] = np.where(next_ms < self.churned_ms[shoppers], next_ms, np.inf)


def draw_sessions(
    rng: np.random.Generator, h: Habits, crowd: Crowd, shoppers: Rows, *, first_order: int
) -> DrawnEvents:
    """Draw the sessions that these shoppers start at their ``next_ms``. Orders are numbered from ``first_order``.

    A session is: perhaps a search; views, each perhaps followed by wishlist and cart; removals; perhaps an order.
    """
    fade = h.fading * np.exp((crowd.next_ms[shoppers] - crowd.churned_ms[shoppers]) / (h.fading_days * DAY_MS))
    n_views = 1 + rng.poisson((h.views_mean - 1) * (1 - 0.7 * fade))
    session = np.repeat(np.arange(len(shoppers)), n_views)
    nth = np.arange(len(session)) - np.repeat(np.cumsum(n_views) - n_views, n_views)
    viewed = _draw_views(rng, h, crowd, shoppers[session])
    wish = rng.random(len(session)) < h.wish
    cart = rng.random(len(session)) < h.cart
    uncart = cart & (rng.random(len(session)) < (h.uncart + 0.7 * fade * (1 - h.uncart))[session])
    kept = cart & ~uncart
    # The order carries the product that was first put in the cart and stayed there.
    buyers, first_kept = np.unique(session[kept], return_index=True)
    buys = rng.random(len(buyers)) < (crowd.conversion[shoppers] * (1 - 0.8 * fade))[buyers]
    buyers, bought = buyers[buys], np.flatnonzero(kept)[first_kept[buys]]
    search = np.flatnonzero((nth == 0) & (rng.random(len(shoppers)) < h.search)[session])

    # For each kind of event: the views that it belongs to, and its place in the session.
    parts = {
        Kind.SEARCH: (search, 0 * search),
        Kind.VIEW: (np.arange(len(session)), 4 * nth + 1),
        Kind.WISH: (np.flatnonzero(wish), 4 * nth[wish] + 2),
        Kind.CART: (np.flatnonzero(cart), 4 * nth[cart] + 3),
        Kind.UNCART: (np.flatnonzero(uncart), _AFTER_VIEWS + nth[uncart]),
        Kind.ORDER: (bought, np.full(len(bought), 2 * _AFTER_VIEWS)),
    }
    events, session_of = _in_order(viewed, session, parts)
    is_order = events["kind"] == Kind.ORDER
    cents = np.where(kept, _CENTS[viewed["price"]], 0)
    events["order"][is_order] = first_order + np.arange(len(bought))
    events["cents"][is_order] = np.bincount(session, weights=cents, minlength=len(shoppers))[buyers]
    events["items"][is_order] = np.bincount(session, weights=kept, minlength=len(shoppers))[buyers]
    events["time_ms"] = crowd.next_ms[shoppers][session_of] + _elapsed_ms(rng, h, session_of)
    return _before_churn(crowd, events)


def _in_order(
    viewed: DrawnEvents, session: Slots, parts: Mapping[Kind, tuple[Slots, Slots]]
) -> tuple[DrawnEvents, Slots]:
    """The events of these parts, by session and by place in it; and the session of each event.

    ``parts`` holds, for each kind of event, the views (indices into ``viewed``) that the events belong to, and their
    places in the session.
    """
    view = np.concatenate([views for views, _ in parts.values()])
    place = np.concatenate([places for _, places in parts.values()])
    events = viewed[view]
    events["kind"] = np.concatenate([np.full(len(views), kind) for kind, (views, _) in parts.items()])
    order = np.lexsort((place, session[view]))
    return events[order], session[view][order]


def _draw_views(rng: np.random.Generator, h: Habits, crowd: Crowd, shoppers: Rows) -> DrawnEvents:
    """Draw the category and price of one view for each of these shoppers; a shopper may be named several times."""
    views = np.zeros(len(shoppers), DRAWN_EVENT)
    views["user"] = shoppers
    taste = rng.random(len(shoppers), dtype=np.float32)
    views["category"] = np.minimum((crowd.mix[shoppers] < taste[:, None]).sum(axis=1), crowd.mix.shape[1] - 1)
    views["price"] = _price_steps(rng, h, crowd.price[shoppers])
    return views


def draw_follow_ups(rng: np.random.Generator, h: Habits, crowd: Crowd, events: DrawnEvents) -> DrawnEvents:
    """Draw the refunds (1 to 10 days later) and reviews (2 to 14 days later) of the orders among these events."""
    orders = events[events["kind"] == Kind.ORDER]
    drawn = []
    for kind, probability, days_min, days_max in (
        (Kind.REFUND, h.refund, 1, 10),
        (Kind.REVIEW, h.review, 2, 14),
    ):
        follow_ups = orders[rng.random(len(orders)) < probability]
        follow_ups["kind"] = kind
        follow_ups["time_ms"] += (rng.uniform(days_min, days_max, len(follow_ups)) * DAY_MS).astype(np.int64)
        drawn.append(follow_ups)
    return _before_churn(crowd, np.concatenate(drawn))


#: Place of the first removal in a session. It lies behind the places of all views, however many there are.
_AFTER_VIEWS: Final = 2**32


def _before_churn(crowd: Crowd, events: DrawnEvents) -> DrawnEvents:
    """The events that happen before their shopper leaves."""
    kept: DrawnEvents = events[events["time_ms"] < crowd.churned_ms[events["user"]]]
    return kept


def _price_steps(rng: np.random.Generator, h: Habits, mean: Floats) -> Slots:
    """Draw prices around these means, as indices into :data:`PRICES`."""
    spread = h.price_spread_within
    log_price = np.log(mean) - spread**2 / 2 + rng.normal(0, spread, len(mean))
    steps: Slots = np.clip(np.rint(log_price / _STEP), 0, len(PRICES) - 1).astype(np.int64)
    return steps


def _elapsed_ms(rng: np.random.Generator, h: Habits, session: Slots) -> Milliseconds:
    """Draw how long after the start of its session each event happens. The events of a session are adjacent."""
    gaps = 1 + rng.exponential(h.gap_s, len(session))
    at = np.cumsum(gaps)
    starts = np.flatnonzero(np.diff(session, prepend=-1))
    elapsed_s: Floats = at - np.repeat(at[starts], np.diff(np.append(starts, len(session))))
    elapsed: Milliseconds = np.floor(elapsed_s * 1000).astype(np.int64)
    return elapsed
