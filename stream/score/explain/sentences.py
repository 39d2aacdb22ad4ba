"""Sentences: what a reason code says about one user, with numbers from the state; None if it would not be true."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from stream.arrays import Counts, EventTimes, FeatureRows, HistoryRows, Seconds
from stream.contract.columns import DAY_S
from stream.contract.events import VALUE_SCALE, EventType
from stream.contract.tokens import FEATURES
from stream.score.features import windows
from stream.state.partition_state import Snapshot

__all__ = ["SENTENCES", "Facts", "facts_of"]

#: A month is 30 UTC days, as in the features. The day of the scoring instant is one of them.
_MONTH: Final = 30
#: A fall in spend by a smaller share is noise between months.
_FALL_MIN: Final = 0.1
#: An order within a week is a recent one.
_RECENT_DAYS: Final = 7
#: Sentiment is P(positive) - P(negative). Below this, P(negative) is more than one half.
_NEGATIVE: Final = -0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the sentences about one user are made of. Times are in seconds, money is in units of the currency."""

    as_of: int
    #: The user's columns: one element of dtype ``USER``.
    user: np.void
    #: Times of the refunds that are still in the history.
    refund_times: EventTimes
    #: Events by type in the last month, ``(N_TYPES,)``.
    counts: Counts
    #: Days with a visit and net spend in the last month.
    visit_days: int
    spend: float
    #: The same in the month before; 0 if nothing happened, or if the history does not reach back that far.
    visit_days_before: int
    spend_before: float
    sentiment_last: float
    sentiment_mean: float
    #: Features of a typical user by name, each on the scale of the feature.
    typical: dict[str, float]
    currency: str

    def count(self, kind: EventType) -> int:
        """Events of one type in the last month."""
        return int(self.counts[kind - 1])

    def days_since(self, column: str) -> int:
        """Full days since the time in a column of the user."""
        return int((self.as_of - int(self.user[column])) // DAY_S)

    def money(self, amount: float) -> str:
        """An amount with its currency."""
        return f"{amount:,.2f} {self.currency}"


def facts_of(
    snapshot: Snapshot, as_of: Seconds, *, numbers: FeatureRows, typical: FeatureRows, currency: str
) -> Iterator[Facts]:
    """Facts about each of ``n`` users at ``as_of`` (n,), given their features ``numbers`` (n, features).

    ``typical`` (features,) are the features of a typical user.
    """
    named = dict(zip(FEATURES, numbers.T.tolist(), strict=True))
    typical_named = dict(zip(FEATURES, typical.tolist(), strict=True))
    counts, revenue = windows(snapshot, as_of)
    for i, user in enumerate(snapshot.users):
        history = snapshot.history[i, : user["history_len"]]
        before = _month_before(history, int(user["n_events"]), int(as_of[i]))
        yield Facts(
            as_of=int(as_of[i]),
            user=user,
            refund_times=history["time"][history["type"] == EventType.REFUND],
            counts=counts[i, -1],
            visit_days=round(named["active_days_30d"][i]),
            visit_days_before=len(np.unique(before["time"] // DAY_S)),
            spend=int(revenue[i, -1]) / VALUE_SCALE,
            spend_before=int(before["value"].sum(dtype=np.int64)) / VALUE_SCALE,
            sentiment_last=named["sentiment_last"][i],
            sentiment_mean=named["sentiment_mean"][i],
            typical=typical_named,
            currency=currency,
        )


def _month_before(history: HistoryRows, n_events: int, as_of: int) -> HistoryRows:
    """The events of the month before the last; no events if some of them have left the history."""
    days_ago = as_of // DAY_S - history["time"].astype(np.int64) // DAY_S
    complete = n_events == len(history) or days_ago[0] >= 2 * _MONTH
    return history[complete & (days_ago >= _MONTH) & (days_ago < 2 * _MONTH)]


def _silence(facts: Facts) -> str | None:
    days = facts.days_since("last_time")
    return f"no visit for {_number(days, 'day')}" if days else None


def _fewer_visits(facts: Facts) -> str | None:
    now, before = facts.visit_days, facts.visit_days_before
    typical = round(facts.typical["active_days_30d"])
    if before and now < before:
        return f"visits on {_number(now, 'day')} in the last month, on {before} in the month before"
    if not before and now < typical:
        return f"visits on {_number(now, 'day')} in the last month, typical is {typical}"
    return None


def _spend_down(facts: Facts) -> str | None:
    now, before = facts.spend, facts.spend_before
    typical = float(np.expm1(facts.typical["revenue_30d"]))
    if before > 0:
        if now <= 0:
            return f"no net spend in the last month, {facts.money(before)} in the month before"
        fall = 1 - now / before
        # The percentage is rounded down, so that the sentence never exaggerates.
        return f"spend down {int(100 * fall)} % on the month before" if fall >= _FALL_MIN else None
    if facts.user["orders"] and 0 <= now < (1 - _FALL_MIN) * typical:
        return f"spend of {facts.money(now)} in the last month, typical is {facts.money(typical)}"
    return None


def _no_recent_order(facts: Facts) -> str | None:
    if not facts.user["orders"]:
        return "no order yet"
    days = facts.days_since("last_order_time")
    return f"no order for {_number(days, 'day')}" if days >= _RECENT_DAYS else None


def _short_history(facts: Facts) -> str | None:
    tenure_days = (facts.as_of - int(facts.user["first_time"])) / DAY_S
    n_events = int(facts.user["n_events"])
    if tenure_days < np.expm1(facts.typical["tenure"]):
        ago = _number(int(tenure_days), "day") if tenure_days >= 1 else "less than a day"
        return f"first seen {ago} ago, {_number(n_events, 'action')} so far"
    return f"only {_number(n_events, 'action')} so far" if n_events < int(np.expm1(facts.typical["n_events"])) else None


def _carts_abandoned(facts: Facts) -> str | None:
    carts, taken_out = facts.count(EventType.CART), facts.count(EventType.UNCART)
    ordered = facts.user["orders"] > 0 and facts.days_since("last_order_time") < _MONTH
    if not taken_out and (ordered or not carts):
        return None
    parts = [
        f"cart or checkout used {_number(carts, 'time')}" if carts else "",
        f"{_number(taken_out, 'item')} taken out of the cart" if taken_out else "",
        "" if ordered else "no order",
    ]
    return ", ".join(filter(None, parts)) + " in the last month"


def _refunds(facts: Facts) -> str | None:
    if n := facts.count(EventType.REFUND):
        return f"{_number(n, 'refund or cancelled order', 'refunds or cancelled orders')} in the last month"
    if not len(facts.refund_times):
        return None
    days = (facts.as_of - int(facts.refund_times[-1])) // DAY_S
    return f"refund or cancelled order {_number(days, 'day')} ago"


def _bad_review(facts: Facts) -> str | None:
    if facts.sentiment_last < _NEGATIVE:
        return "last review was negative"
    return "reviews were negative on average" if facts.sentiment_mean < _NEGATIVE else None


#: Reason code → a function that makes its sentence, or returns None if the sentence would not be true of the user.
SENTENCES: Final[dict[str, Callable[[Facts], str | None]]] = {
    "silence": _silence,
    "fewer_visits": _fewer_visits,
    "spend_down": _spend_down,
    "no_recent_order": _no_recent_order,
    "short_history": _short_history,
    "carts_abandoned": _carts_abandoned,
    "refunds": _refunds,
    "bad_review": _bad_review,
}


def _number(n: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> _number(1, "day"), _number(1_200, "day"), _number(0, "day")
    ('1 day', '1,200 days', 'no days')
    """
    return f"{f'{n:,}' if n else 'no'} {one if n == 1 else many or one + 's'}"
