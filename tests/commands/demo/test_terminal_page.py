"""The view of the demo: it fits into the terminal, shows the numbers, and lets no record steer the terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from stream.commands.demo.scrape import Reading
from stream.commands.demo.terminal_page import Frame, line, page
from stream.contract.score import Alert
from tests.broker.examples import score_of

NOW = datetime(2025, 5, 1, tzinfo=UTC)
READING = Reading(
    at=0.0, processed=0, dead_letters=0, scores=0, alerts=0, lag=0, queued=0, users=0, latency={0.1: 0, 0.2: 0}
)
LATER = Reading(
    at=5.0,
    processed=5_000,
    dead_letters=3,
    scores=1_500,
    alerts=7,
    lag=42,
    queued=0,
    users=812,
    latency={0.1: 0, 0.2: 9},
)


def frame(n: int = 0, user: str = "ann", behind: timedelta = timedelta(days=38), first: Reading = READING) -> Frame:
    scores = [score_of(f"{user}{i}") for i in range(n)]
    alerts = [Alert(alert_id="a", rule="churn_high", previous_band="low", score=s, reasons=[]) for s in scores]
    places = {"metrics": "http://127.0.0.1:9464/metrics", "logs": ".valuestream/demo"}
    return Frame(75.0, NOW - behind, NOW, [first, LATER], scores, alerts, places)


def shown(one: Frame, width: int = 140, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(page(one, height))
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


@settings(max_examples=30, deadline=None)
@given(st.integers(60, 250), st.integers(20, 80), st.integers(0, 60))
def test_page_never_has_more_lines_than_the_terminal(width: int, height: int, n: int) -> None:
    lines = shown(frame(n), width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [80, 140])
def test_page_shows_numbers_users_and_alerts(width: int) -> None:
    text = shown(frame(3), width)
    for said in ("1,001", "300", "150 ms", "42", "812", "ann0", "83%", "31%", "1,041.20 EUR", "low → high", "01:15"):
        assert said in text
    assert "38 days ago, in fast motion" in text
    assert "http://127.0.0.1:9464/metrics" in text


def test_page_says_when_the_shoppers_have_reached_the_present() -> None:
    assert "go on in real time" in shown(frame(behind=timedelta(seconds=0)))


def test_page_without_scores_says_none_yet() -> None:
    empty = frame(first=LATER)
    assert shown(empty).count("none yet") == 2
    assert "– · –" in shown(empty)
    assert "p50 – p99 –" in line(empty)


def test_plain_line_is_one_line_with_the_numbers() -> None:
    text = line(frame(2))
    assert len(text.splitlines()) == 1
    for said in ("1,001 events/s", "300 scores/s", "p50 150 ms", "lag 42", "dead letters 3", "users 812", "ann0"):
        assert said in text


@given(st.text(min_size=1, max_size=10))
def test_user_id_cannot_steer_the_terminal(user: str) -> None:
    one = frame(1, user)
    assert shown(one).replace("\n", "").isprintable()
    assert line(one).isprintable()
