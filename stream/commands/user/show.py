"""``valuestream user show``: what the service knows of one user, in words or as JSON."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from stream.commands.console import printable, score_words, shown_time
from stream.commands.options import GroupedCommand, settings_options, user_argument
from stream.commands.user.facts import facts
from stream.commands.user.read import find
from stream.contract.score import Churn, LifetimeValue, Purchase, Score
from stream.errors import ValuestreamError
from stream.kafka.topics import changelog_topic
from stream.settings import Settings

__all__ = ["score_details", "show"]


@click.command(cls=GroupedCommand)
@settings_options("Kafka", "Topics", "Schema registry", "Privacy")
@user_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(user_id: str, as_json: bool, settings: Settings) -> None:
    """Say what is known of user ID: state, windows, last events, last score.

    The answer comes from the changelog and the scores topic, so it is as fresh as the worker's last checkpoint.
    """
    known = _facts(settings, user_id)
    click.echo(msgspec.json.encode(known) if as_json else _words(known, changelog_topic(settings)))


def _facts(settings: Settings, user_id: str) -> dict[str, Any]:
    for held in find(settings, user_id, everywhere=False):
        if held.snapshot is not None:
            return facts(user_id, held, held.snapshot)
    raise ValuestreamError(
        f"user {printable(user_id)!r} is not in {changelog_topic(settings)} (read to its end); expected an id that has"
        " sent events before the last checkpoint and was not erased since; check the id, --app-id,"
        " --bootstrap-servers and the pseudonym key"
    )


# -- words ----------------------------------------------------------------------------------------------------


def _words(known: dict[str, Any], changelog: str) -> str:
    """The facts as lines of text."""
    score = known["score_record"]
    code = known["currency"] or (score.ltv.currency if score else "")
    currency = f" {printable(code)}".rstrip()
    lines = [
        f"user {printable(known['user_id'])}  ({changelog}, partition {known['partition']})",
        "",
        f"  first seen      {shown_time(known['first_seen'])}",
        f"  last event      {shown_time(known['last_event'])}",
        f"  events          {known['events']:,}",
        f"  orders          {known['orders']:,}",
        f"  revenue         {known['revenue']:,.2f}{currency}",
        f"  applied offset  {known['applied_offset']:,}",
        "",
        "windows that end at the last event",
        *(_window_words(name, window, currency) for name, window in known["windows"].items()),
        "",
        f"last {len(known['last_events'])} of {known['events']:,} events, newest first",
        *(_event_words(event, currency) for event in known["last_events"]),
        "",
        "last score, in state",
        f"  {_state_score_words(known['last_score'], currency)}",
        "newest record in the scores topic",
        *(f"  {line}" for line in _record_lines(score)),
    ]
    return "\n".join(lines)


def _window_words(name: str, window: dict[str, Any], currency: str) -> str:
    n = sum(window["events"].values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in window["events"].items())
    noun = "event " if n == 1 else "events"
    return f"  {name:>3}  {n:>6,} {noun}  {window['revenue']:>12,.2f}{currency}   {kinds}".rstrip()


def _event_words(event: dict[str, Any], currency: str) -> str:
    value = f"  {event['value']:>12,.2f}{currency}" if event["value"] else ""
    return f"  {shown_time(event['time'])}  {event['type']:<9}{value}".rstrip()


def _state_score_words(score: dict[str, Any] | None, currency: str) -> str:
    if score is None:
        return "none yet"
    silence = f", after {score['silence_days']} days of silence" if score["silence_days"] else ""
    seen = "its last event is in it" if score["has_seen_last_event"] else "its last event is not in it yet"
    return (
        f"churn {score['churn']:.0%}, buys {score['purchase']:.0%}, worth {score['ltv']:,.2f}{currency}{silence}"
        f" (offset {score['scored_offset']:,}: {seen})"
    )


def _record_lines(score: Score | None) -> list[str]:
    if score is None:
        return ["none yet"]
    return [f"{shown_time(score.as_of)}  {score_words(score)}", *score_details(score)]


def score_details(score: Score) -> list[str]:
    """A line for each number of a score: how certain it is, and how the user ranks among all users."""
    currency = printable(score.ltv.currency)
    lines = [_probability_line("churn", score.churn), *(_probability_line("buys", p) for p in score.purchase)]
    low, high = (f"{limit:,.2f}" for limit in score.ltv.interval or (0.0, 0.0))
    interval = f"80% of outcomes {low} to {high} {currency}" if score.ltv.interval else ""
    lines.append(_detail_line("worth", score.ltv, f"{score.ltv.expected:,.2f} {currency}", interval))
    if score.next_category:
        shares = ", ".join(f"{printable(c.category)} {c.probability:.0%}" for c in score.next_category)
        lines.append(f"next category  {shares}")
    return lines


def _probability_line(name: str, prediction: Churn | Purchase) -> str:
    low, high = prediction.interval or (0.0, 0.0)
    interval = f"95% interval {low:.0%} to {high:.0%}" if prediction.interval else ""
    return _detail_line(name, prediction, f"{prediction.probability:.0%}", interval)


def _detail_line(name: str, prediction: Churn | Purchase | LifetimeValue, number: str, interval: str) -> str:
    rank = "" if prediction.percentile is None else f"higher than {prediction.percentile:g}% of users"
    details = ", ".join(part for part in (number, interval, rank) if part)
    return f"{f'{name} {prediction.horizon_days:g} d':<13}  {details}"
