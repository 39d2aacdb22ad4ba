"""Words: what a score says beyond its line, for people who look at one user."""

from __future__ import annotations

from stream.commands.tail import printable
from stream.contract.score import Churn, LifetimeValue, Purchase, Score

__all__ = ["score_details"]


def score_details(score: Score) -> list[str]:
    """A line for each number: how well it is known, and where it stands among users."""
    currency = printable(score.ltv.currency)
    lines = [_head_line("churn", score.churn), *(_head_line("buys", p) for p in score.purchase)]
    low, high = (f"{bound:,.2f}" for bound in score.ltv.interval or (0.0, 0.0))
    likely = f"80% of outcomes {low} to {high} {currency}" if score.ltv.interval else ""
    lines.append(_line("worth", score.ltv, f"{score.ltv.expected:,.2f} {currency}", likely))
    if score.next_category:
        shares = ", ".join(f"{printable(c.category)} {c.probability:.0%}" for c in score.next_category)
        lines.append(f"next category  {shares}")
    return lines


def _head_line(name: str, head: Churn | Purchase) -> str:
    low, high = head.interval or (0.0, 0.0)
    known = f"95% interval {low:.0%} to {high:.0%}" if head.interval else ""
    return _line(name, head, f"{head.probability:.0%}", known)


def _line(name: str, what: Churn | Purchase | LifetimeValue, number: str, known: str) -> str:
    rank = "" if what.percentile is None else f"higher than {what.percentile:g}% of users"
    said = ", ".join(part for part in (number, known, rank) if part)
    return f"{f'{name} {what.horizon_days:g} d':<13}  {said}"
