"""Draws whole blocks of shop sessions at once; :mod:`stream.datasets.shoppers` says what process it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["DAY_MS", "PRICES", "ROW", "Crowd", "Habits", "Kind", "Rows", "draw_follow_ups", "draw_sessions"]

DAY_MS: Final = 86_400_000
#: Products of a category stand on a ladder of prices, 12 % apart, from 1.00 to about 7,700.
PRICES: Final = np.round(1.12 ** np.arange(80), 2)
_CENTS: Final = np.round(PRICES * 100).astype(np.int64)
_STEP: Final = np.log(1.12)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]


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


#: One event before it is put in words; ``price`` is a step of :data:`PRICES`, ``cents`` an order's total.
ROW: Final = np.dtype(
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
    """Every parameter of the market; the defaults give about 5 events a session, an order in every ninth."""

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
    """All shoppers so far, a row each; times in milliseconds since 1970, ``next_ms`` infinite for no more."""

    arrived_ms: Floats
    churned_ms: Floats
    next_ms: Floats
    rate: Floats
    hazard: Floats
    price: Floats
    conversion: Floats
    mix: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, habits: Habits, arrived_ms: Floats, categories: int) -> Crowd:
        """Draw the latent values of those who arrive at these times; each starts a session then."""
        n, h = len(arrived_ms), habits
        hazard = rng.gamma(h.hazard_shape, 1 / h.hazard_beta_days, n)
        # No date is beyond a hundred years, however small the hazard.
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
        """Give this crowd with the other's shoppers after its own."""
        mine, theirs = vars(self), vars(other)
        return Crowd(**{name: np.concatenate([mine[name], theirs[name]]) for name in mine})

    def go_on(self, rng: np.random.Generator, who: Ints) -> None:
        """Draw the next session of these shoppers, unless they will have left by then."""
        next_ms = np.floor(self.next_ms[who] + rng.exponential(1, len(who)) / self.rate[who] * DAY_MS)
        self.next_ms[who] = np.where(next_ms < self.churned_ms[who], next_ms, np.inf)


def draw_sessions(rng: np.random.Generator, h: Habits, crowd: Crowd, who: Ints, first_order: int) -> Rows:
    """Draw the sessions that these shoppers start at their ``next_ms``; orders are numbered from ``first_order``.

    A session is: perhaps a search, views each perhaps followed by wishlist and cart, removals, an order.
    """
    fade = h.fading * np.exp((crowd.next_ms[who] - crowd.churned_ms[who]) / (h.fading_days * DAY_MS))
    views = 1 + rng.poisson((h.views_mean - 1) * (1 - 0.7 * fade))
    session = np.repeat(np.arange(len(who)), views)
    nth = np.arange(len(session)) - np.repeat(np.cumsum(views) - views, views)
    shopper = who[session]
    taste = rng.random(len(session), dtype=np.float32)
    category = np.minimum((crowd.mix[shopper] < taste[:, None]).sum(axis=1), crowd.mix.shape[1] - 1)
    price = _price_steps(rng, h, crowd.price[shopper])
    wish = rng.random(len(session)) < h.wish
    cart = rng.random(len(session)) < h.cart
    uncart = cart & (rng.random(len(session)) < (h.uncart + 0.7 * fade * (1 - h.uncart))[session])
    kept = cart & ~uncart
    # The order carries the product that was first put in the cart and stayed there.
    buyers, first_kept = np.unique(session[kept], return_index=True)
    buys = rng.random(len(buyers)) < (crowd.conversion[who] * (1 - 0.8 * fade))[buyers]
    buyers, bought = buyers[buys], np.flatnonzero(kept)[first_kept[buys]]
    cents = np.bincount(session, weights=np.where(kept, _CENTS[price], 0), minlength=len(who))
    items = np.bincount(session, weights=kept, minlength=len(who))
    search = np.flatnonzero((nth == 0) & (rng.random(len(who)) < h.search)[session])

    parts = [
        (search, 0 * search, Kind.SEARCH),
        (np.arange(len(session)), 4 * nth + 1, Kind.VIEW),
        (np.flatnonzero(wish), 4 * nth[wish] + 2, Kind.WISH),
        (np.flatnonzero(cart), 4 * nth[cart] + 3, Kind.CART),
        (np.flatnonzero(uncart), _AFTER_VIEWS + nth[uncart], Kind.UNCART),
        (bought, np.full(len(bought), 2 * _AFTER_VIEWS), Kind.ORDER),
    ]
    view = np.concatenate([part[0] for part in parts])
    place = np.concatenate([part[1] for part in parts])
    rows = np.zeros(len(view), ROW)
    rows["kind"] = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
    rows["user"], rows["category"], rows["price"] = shopper[view], category[view], price[view]
    orders = rows[len(rows) - len(bought) :]
    orders["order"] = first_order + np.arange(len(bought))
    orders["cents"], orders["items"] = cents[buyers], items[buyers]

    in_order = np.lexsort((place, session[view]))
    rows, session = rows[in_order], session[view][in_order]
    rows["time_ms"] = crowd.next_ms[who][session] + _elapsed_ms(rng, h, session)
    return _of_the_living(crowd, rows)


def draw_follow_ups(rng: np.random.Generator, h: Habits, crowd: Crowd, rows: Rows) -> Rows:
    """Draw refunds (1 to 10 days later) and reviews (2 to 14 days) of the orders among these rows."""
    orders = rows[rows["kind"] == Kind.ORDER]
    drawn = []
    for kind, probability, after, before in (
        (Kind.REFUND, h.refund, 1, 10),
        (Kind.REVIEW, h.review, 2, 14),
    ):
        follow = orders[rng.random(len(orders)) < probability]
        follow["kind"] = kind
        follow["time_ms"] += (rng.uniform(after, before, len(follow)) * DAY_MS).astype(np.int64)
        drawn.append(follow)
    return _of_the_living(crowd, np.concatenate(drawn))


#: Place of the first removal in a session; no session has this many places for its views.
_AFTER_VIEWS: Final = 2**32


def _of_the_living(crowd: Crowd, rows: Rows) -> Rows:
    living: Rows = rows[rows["time_ms"] < crowd.churned_ms[rows["user"]]]
    return living


def _price_steps(rng: np.random.Generator, h: Habits, mean: Floats) -> Ints:
    spread = h.price_spread_within
    log_price = np.log(mean) - spread**2 / 2 + rng.normal(0, spread, len(mean))
    steps: Ints = np.clip(np.rint(log_price / _STEP), 0, len(PRICES) - 1).astype(np.int64)
    return steps


def _elapsed_ms(rng: np.random.Generator, h: Habits, session: Ints) -> Ints:
    """Time since the start of its session, of every event; rows of a session are adjacent."""
    gaps = 1 + rng.exponential(h.gap_s, len(session))
    at = np.cumsum(gaps)
    starts = np.flatnonzero(np.diff(session, prepend=-1))
    since: Floats = at - np.repeat(at[starts], np.diff(np.append(starts, len(session))))
    elapsed: Ints = np.floor(since * 1000).astype(np.int64)
    return elapsed
