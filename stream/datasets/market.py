"""Market: simulate shoppers, and know what no shop knows: who has left for good, and when.

The process for each shopper (times in days; the draws of different shoppers are independent):

- sessions are a Poisson process of rate λ, the first at arrival; λ ~ Gamma(shape r, mean ``sessions_per_day``)
- the lifetime is exponential with hazard μ ~ Gamma(shape s, scale 1/β), so that over all shoppers
  P(lifetime > t) = (β / (β + t))^s; after it the shopper never returns
- a price looked at is lognormal around a personal mean m, itself lognormal around ``price_median``
- each shopper has their own mix of categories, Dirichlet(``taste``), and their own probability, Beta(a, b),
  of ordering what stays in the cart

This is the Pareto/NBD model (Schmittlein, Morrison & Colombo 1987; parameters as in Fader, Hardie & Lee
2005, "RFM and CLV: Using Iso-Value Curves for Customer Base Analysis") with shop sessions in place of
purchases. In the BG/NBD of the same authors (2005, "Counting Your Customers the Easy Way") shoppers leave
only after a purchase. Here they may leave at any time, as in a shop without a contract.

``fading`` adds something that a careful model can learn beyond recency and frequency. If d days of the
lifetime are left, f = fading · exp(−d / ``fading_days``). The expected number of views beyond the first is
multiplied by (1 − 0.7 f), the probability of an order by (1 − 0.8 f), and a product is removed from the cart
with probability p + 0.7 f (1 − p). With ``fading=0`` only silence tells that a shopper has left. No event
says so itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
from xxhash import xxh3_64_hexdigest

from stream.datasets.events import Event, Properties
from stream.datasets.sessions import (
    DAY_MS,
    DRAWN_EVENT,
    PRICES,
    Crowd,
    DrawnEvents,
    Habits,
    Kind,
    draw_follow_ups,
    draw_sessions,
)
from stream.errors import ConfigError

__all__ = ["CATEGORIES", "CURRENCY", "Habits", "Market", "Shopper"]

CATEGORIES: Final = (
    "shoes", "coats", "shirts", "bags", "kitchen", "garden", "toys", "books", "phones", "audio", "beauty", "sport",
)  # fmt: skip
CURRENCY: Final = "USD"
USERS_MAX: Final = 10_000_000
#: A block of simulated time has about this many sessions: few enough to start quickly and to fit in memory,
#: enough to make vectorised draws worth while.
_BLOCK_SESSIONS: Final = 4_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES: Final = {
    Kind.SEARCH: "Products Searched",
    Kind.VIEW: "Product Viewed",
    Kind.WISH: "Product Added to Wishlist",
    Kind.CART: "Product Added",
    Kind.UNCART: "Product Removed",
    Kind.ORDER: "Order Completed",
    Kind.REFUND: "Order Refunded",
    Kind.REVIEW: "Product Reviewed",
}


class Shopper(msgspec.Struct, frozen=True):
    """What the simulation knows about one shopper. ``churned_at`` may be in the future; ``spend_mean`` is per item."""

    user_id: str
    arrived_at: datetime
    churned_at: datetime
    session_rate_per_day: float
    dropout_hazard_per_day: float
    spend_mean: float


class Market:
    """An endless market from ``start`` on: ``users`` shoppers arrive in the first days, and new ones at a steady rate.

    The default of ``arrivals_per_day`` keeps the number of active shoppers near ``users``. The same arguments give the
    same events, byte for byte.

    >>> market = Market(users=10, start=datetime(2024, 1, 1, tzinfo=UTC), seed=7)
    >>> first = next(market.events())
    >>> first.user_id in {shopper.user_id for shopper in market.shoppers}
    True
    """

    def __init__(
        self,
        users: int,
        start: datetime,
        seed: int,
        *,
        habits: Habits | None = None,
        arrivals_per_day: float | None = None,
    ) -> None:
        if not 1 <= users <= USERS_MAX:
            raise ConfigError(f"users is {users}, expected 1 to {USERS_MAX:,}; set --users")
        if seed < 0:
            raise ConfigError(f"seed is {seed}, expected 0 or more; set --seed")
        if start.tzinfo is None:
            raise ConfigError(f"start is {start.isoformat()} without a zone; add one, as in 2024-01-01T00:00:00Z")
        self._users, self._seed = users, seed
        self._start_ms = round((start - _EPOCH) / timedelta(milliseconds=1))
        self._habits = habits or Habits()
        steady = users / self._habits.lifetime_mean_days
        self._arrivals_per_day = steady if arrivals_per_day is None else arrivals_per_day
        arguments = (users, self._start_ms, seed, self._habits, self._arrivals_per_day)
        self._prefix = xxh3_64_hexdigest(repr(arguments).encode())[:10]
        self._crowd: Crowd | None = None

    @property
    def shoppers(self) -> list[Shopper]:
        """All shoppers drawn so far, also those of the first days before they arrive. More come with the events."""
        crowd = self._crowd
        if crowd is None:
            return []
        columns = (crowd.arrived_ms, crowd.churned_ms, crowd.rate, crowd.hazard, crowd.price)
        return [
            Shopper(self._user_id(i), _time(arrived), _time(churned), rate, hazard, price)
            for i, (arrived, churned, rate, hazard, price) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        ]

    def events(self, until: datetime | None = None) -> Iterator[Event]:
        """Yield all events before ``until`` in event-time order; every call begins at the start.

        Without ``until`` the events end only if nobody arrives any more and the last shopper has left.
        """
        until_ms = None if until is None else (until - _EPOCH) / timedelta(milliseconds=1)
        ordinal = 0
        for drawn in self._blocks():
            for fields in zip(*(drawn[name].tolist() for name in drawn.dtype.names or ()), strict=True):
                if until_ms is not None and fields[0] >= until_ms:
                    return
                yield self._event(ordinal, *fields)
                ordinal += 1

    def _blocks(self) -> Iterator[DrawnEvents]:
        """Yield the drawn events of one block of time after the other, each block in event-time order."""
        rng, h = np.random.default_rng(self._seed), self._habits
        block_ms = int(min(1.0, _BLOCK_SESSIONS / (self._users * h.sessions_per_day)) * DAY_MS)
        arrived = np.sort(rng.uniform(0, h.ramp_days * DAY_MS, self._users))
        crowd = Crowd.draw(rng, h, np.floor(self._start_ms + arrived), len(CATEGORIES))
        later = np.zeros(0, DRAWN_EVENT)
        begin, n_orders = self._start_ms, 0
        while self._arrivals_per_day > 0 or len(later) or np.isfinite(crowd.next_ms).any():
            end = begin + block_ms
            n_new = rng.poisson(self._arrivals_per_day * block_ms / DAY_MS)
            if n_new:
                new = np.floor(np.sort(rng.uniform(begin, end, n_new)))
                crowd = crowd.joined(Crowd.draw(rng, h, new, len(CATEGORIES)))
            self._crowd = crowd
            drawn = [later]
            while len(shoppers := np.flatnonzero(crowd.next_ms < end)):
                events = draw_sessions(rng, h, crowd, shoppers, first_order=n_orders)
                n_orders += int(np.count_nonzero(events["kind"] == Kind.ORDER))
                drawn += [events, draw_follow_ups(rng, h, crowd, events)]
                crowd.draw_next_sessions(rng, shoppers)
            events = np.concatenate(drawn)
            events = events[np.argsort(events["time_ms"], kind="stable")]
            n_before_end = np.searchsorted(events["time_ms"], end)
            later, begin = events[n_before_end:], end
            yield events[:n_before_end]

    def _event(
        self, ordinal: int, time_ms: int, order: int, cents: int, user: int, items: int, kind: int, *product: int
    ) -> Event:
        properties = _PRODUCTS[product] if kind != Kind.SEARCH else _SEARCHES[product[0]]
        if kind in (Kind.ORDER, Kind.REFUND):
            properties = Properties(
                product_id=properties.product_id,
                category=properties.category,
                quantity=items,
                order_id=f"{self._prefix}-{order}",
                total=cents / 100,
                currency=CURRENCY,
            )
        return Event(_NAMES[Kind(kind)], f"{self._prefix}-{ordinal:x}", self._user_id(user), _time(time_ms), properties)

    def _user_id(self, index: int) -> str:
        return f"s{self._seed}-{index:06d}"


def _time(time_ms: float) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


#: Events about the same product share their properties, because there are few products.
_PRODUCTS: Final[dict[Any, Properties]] = {
    (c, p): Properties(product_id=f"{category}-{p:02d}", category=category, price=price, quantity=1, currency=CURRENCY)
    for c, category in enumerate(CATEGORIES)
    for p, price in enumerate(PRICES.tolist())
}
_SEARCHES: Final = [Properties(category=category) for category in CATEGORIES]
