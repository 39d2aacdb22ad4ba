"""What several commands share at the terminal: safe text, scores in words, tables, progress, and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from types import FrameType
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as ProgressBar

from stream.clock import Stop
from stream.contract.score import Score
from stream.iso_time import iso_seconds
from stream.kafka.sender import Progress

__all__ = [
    "SignalStop",
    "aligned_table",
    "band_word",
    "printable",
    "score_words",
    "shown_progress",
    "shown_time",
    "stopped_by_signals",
]

#: Without a terminal, progress is one line in this time.
_LINE_INTERVAL_S: Final = 5.0
_BAND_COLOURS: Final = {"low": "green", "medium": "yellow", "high": "red"}


# -- text -----------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Text from a record, with a dot in place of each character that could steer a terminal.

    >>> printable("u\\x1b[2J1")
    'u·[2J1'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "·" for c in text)


def shown_time(iso: str) -> str:
    """``2025-05-01T12:00:00Z`` as people read it.

    >>> shown_time("2025-05-01T12:00:00Z")
    '2025-05-01 12:00:00'
    """
    return printable(iso).removesuffix("Z").replace("T", " ")


def score_words(score: Score, *, band: bool = True) -> str:
    """Churn, purchases, value, and how much data they rest on, in columns of fixed width."""
    churn = f"churn {score.churn.probability:4.0%} in {score.churn.horizon_days:g} d"
    if band:
        churn += f" {band_word(score.churn.band)}"
    buys = ", ".join(f"{p.probability:4.0%} in {p.horizon_days:g} d" for p in score.purchase)
    value = f"{score.ltv.expected:>9,.2f} {printable(score.ltv.currency)} in {score.ltv.horizon_days:g} d"
    order = f"next order {printable(score.expected_next_purchase or '–'):<10}"
    known = f"{score.n_events:>5,} events, data {score.data_sufficiency}"
    return f"{churn}   buys {buys}   worth {value}   {order}   {known}"


def band_word(band: str) -> str:
    """The name of the band, in its colour if the output is a terminal."""
    return click.style(f"{band:<6}", fg=_BAND_COLOURS[band])


def aligned_table(rows: Sequence[Sequence[str]], right_aligned: Collection[int] = ()) -> list[str]:
    """One line for each row, with aligned columns; ``right_aligned`` names columns by their index.

    >>> aligned_table([("REASON", "COUNT"), ("late", "7")], right_aligned={1})
    ['REASON  COUNT', 'late        7']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths, right_aligned)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], right_aligned: Collection[int]) -> Iterator[str]:
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.rjust(width) if i in right_aligned else cell.ljust(width)


# -- progress -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def shown_progress(title: str, total: int | None = None) -> Iterator[Progress]:
    """Show a progress bar on a terminal, or else a line every few seconds. Both go to stderr."""
    if not sys.stdout.isatty():
        yield _progress_lines(title)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} events, {task.fields[rate]:,.0f}/s, at {task.fields[at]}"),
    )
    with ProgressBar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate=0.0, at="-")

        def update(n: int, elapsed_s: float, time_ms: int) -> None:
            bar.update(task, completed=n, rate=n / max(elapsed_s, 1e-9), at=_shown_minute(time_ms))

        yield update


def _progress_lines(title: str) -> Progress:
    last_s = 0.0

    def write(n: int, elapsed_s: float, time_ms: int) -> None:
        nonlocal last_s
        if elapsed_s - last_s >= _LINE_INTERVAL_S:
            last_s = elapsed_s
            click.echo(f"{title}: {n:,} events, {n / elapsed_s:,.0f}/s, at {_shown_minute(time_ms)}", err=True)

    return write


def _shown_minute(time_ms: int) -> str:
    """Date, hour and minute of a time in milliseconds since 1970.

    >>> _shown_minute(1_735_689_659_999)
    '2025-01-01 00:00'
    """
    return shown_time(iso_seconds(time_ms // 1000))[:16]


# -- signals --------------------------------------------------------------------------------------------------


class SignalStop:
    """A stop that a signal handler sets.

    It has no lock, unlike ``threading.Event``: the handler may interrupt the very code that holds the lock, and would
    then wait for ever.
    """

    _set = False

    def set(self) -> None:
        """Ask for the end."""
        self._set = True

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._set

    def wait(self, timeout: float) -> bool:
        """Sleep for up to ``timeout`` seconds; true if the end was asked for."""
        if not self._set:
            time.sleep(timeout)
        return self._set


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Give a stop that Ctrl-C and SIGTERM set. The command ends by itself, after what it has sent is acknowledged."""
    stop = SignalStop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
