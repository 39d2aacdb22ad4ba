"""A second implementation of the sentences, from the plain events of a user."""

from __future__ import annotations

import numpy as np

from stream.contract.events import EventType
from tests.state.reference import Plain, active_days, window
from tests.state.test_partition_state import DAY


def plain_sentence(code: str, events: list[Plain], as_of: int, typical: dict[str, float]) -> str | None:
    """The sentence of a reason code about a user, if it is true. All events of the user are still in the history."""
    ago = [as_of // DAY - e.time // DAY for e in events]
    before = [e for e, days in zip(events, ago, strict=True) if 30 <= days < 60]
    counts, spend = window(events, "30d", as_of)
    orders = [e.time for e in events if e.type == EventType.PURCHASE]
    return {
        "silence": lambda: silence_said(events, as_of),
        "fewer_visits": lambda: visits_said(
            active_days(events, 30, as_of), len({e.time // DAY for e in before}), round(typical["active_days_30d"])
        ),
        "spend_down": lambda: spend_said(
            spend / 100, sum(e.value for e in before) / 100, np.expm1(typical["revenue_30d"]), bool(orders)
        ),
        "no_recent_order": lambda: order_said([(as_of - t) // DAY for t in orders]),
        "short_history": lambda: history_said(events, as_of, typical),
        "carts_abandoned": lambda: carts_said(
            counts[EventType.CART], counts[EventType.UNCART], any(as_of - t < 30 * DAY for t in orders)
        ),
        "refunds": lambda: refunds_said(
            counts[EventType.REFUND], [(as_of - e.time) // DAY for e in events if e.type == EventType.REFUND]
        ),
        "bad_review": lambda: None,
    }[code]()


def days(n: int) -> str:
    return {0: "no days", 1: "1 day"}.get(n, f"{n:,} days")


def silence_said(events: list[Plain], as_of: int) -> str | None:
    silent = (as_of - max(e.time for e in events)) // DAY
    return f"no visit for {days(silent)}" if silent else None


def visits_said(now: int, before: int, typical: int) -> str | None:
    if before:
        return f"visits on {days(now)} in the last month, on {before} in the month before" if now < before else None
    return f"visits on {days(now)} in the last month, typical is {typical}" if now < typical else None


def spend_said(now: float, before: float, typical: float, ordered: bool) -> str | None:
    if before > 0 and now <= 0:
        return f"no net spend in the last month, {before:,.2f} EUR in the month before"
    if before > 0:
        return f"spend down {int(100 * (1 - now / before))} % on the month before" if 1 - now / before >= 0.1 else None
    told = ordered and 0 <= now < 0.9 * typical
    return f"spend of {now:,.2f} EUR in the last month, typical is {typical:,.2f} EUR" if told else None


def order_said(days_since: list[int]) -> str | None:
    if not days_since:
        return "no order yet"
    return f"no order for {days(min(days_since))}" if min(days_since) >= 7 else None


def history_said(events: list[Plain], as_of: int, typical: dict[str, float]) -> str | None:
    actions = "1 action" if len(events) == 1 else f"{len(events)} actions"
    known_s = as_of - min(e.time for e in events)
    if known_s / DAY < np.expm1(typical["tenure"]):
        ago = days(known_s // DAY) if known_s >= DAY else "less than a day"
        return f"first seen {ago} ago, {actions} so far"
    return f"only {actions} so far" if len(events) < int(np.expm1(typical["n_events"])) else None


def carts_said(carts: int, taken_out: int, ordered: bool) -> str | None:
    if not (taken_out or (carts and not ordered)):
        return None
    parts = [f"cart or checkout used {carts} time{'s' * (carts > 1)}"] * bool(carts)
    parts += [f"{taken_out} item{'s' * (taken_out > 1)} taken out of the cart"] * bool(taken_out)
    return ", ".join(parts + ["no order"] * (not ordered)) + " in the last month"


def refunds_said(now: int, days_since: list[int]) -> str | None:
    if now:
        return f"{now} {'refund or cancelled order' if now == 1 else 'refunds or cancelled orders'} in the last month"
    return f"refund or cancelled order {days(min(days_since))} ago" if days_since else None
