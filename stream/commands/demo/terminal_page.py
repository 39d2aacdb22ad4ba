"""The live view of the demo: one calm page with the main numbers, the users most at risk, and the newest alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stream.commands.console import printable, shown_time
from stream.commands.demo.scrape import Reading, quantile, rate, since
from stream.contract.score import Alert, Score

__all__ = ["Frame", "line", "page"]

_BAND_STYLES: Final = {"low": "green", "medium": "yellow", "high": "red"}
_BAR_WIDTH: Final = 8
#: More rows than this would not help anyone.
_ROWS_MAX: Final = 16
#: From this width on, the two tables stand side by side.
_WIDE: Final = 126
#: Lines of the page that are not rows of a table: margin, head, numbers, titles, foot.
_LINES_WIDE, _LINES_NARROW = 10, 16
#: Simulated shoppers have reached the present if they are less than this behind the clock.
_LIVE_WITHIN_S: Final = 60


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything that one view shows. ``readings`` are those of the last seconds, the newest last."""

    elapsed_s: float
    simulated: datetime
    now: datetime
    readings: Sequence[Reading]
    at_risk: Sequence[Score]
    alerts: Sequence[Alert]
    #: Where to find the metrics, Kafka and the logs.
    places: dict[str, str]

    @property
    def last(self) -> Reading:
        """The newest reading."""
        return self.readings[-1]

    def latency_ms(self, q: float) -> float | None:
        """Quantile of the time from broker to score, in milliseconds, for the span of the readings."""
        value = quantile(q, since(self.last.latency, self.readings[0].latency))
        return None if value is None else value * 1000


def line(frame: Frame) -> str:
    """The frame as one plain line, for output that is not a terminal."""
    last, most_at_risk = frame.last, frame.at_risk[:1]
    parts = [
        _span(frame.elapsed_s),
        f"simulated {frame.simulated:%Y-%m-%d}",
        f"{rate(frame.readings, 'handled'):,.0f} events/s",
        f"{rate(frame.readings, 'scores'):,.0f} scores/s",
        f"event to score p50 {_ms(frame.latency_ms(0.5))} p99 {_ms(frame.latency_ms(0.99))}",
        f"lag {last.lag:,}",
        f"dead letters {last.dead_letters:,}",
        f"users {last.users:,}",
        f"alerts {last.alerts:,}",
        *(f"most at risk {printable(score.user_id)} ({_risk_words(score)})" for score in most_at_risk),
    ]
    return "  ".join(parts)


def _risk_words(score: Score) -> str:
    return f"churn {score.churn.probability:.0%}, worth {score.ltv.expected:,.2f} {printable(score.ltv.currency)}"


def page(frame: Frame, height: int) -> RenderableType:
    """The frame as a page that fits into a terminal of this many lines."""
    return _Page(frame, height)


@dataclass(frozen=True, slots=True)
class _Page:
    """The page. Its tables stand side by side if the terminal is wide enough."""

    frame: Frame
    height: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        numbers = _number_grid(self.frame, per_row=7 if wide else 4)
        free = self.height - (_LINES_WIDE if wide else _LINES_NARROW)
        risk_rows = free if wide else free - free // 3
        alert_rows = free if wide else free // 3
        risk = _risk_table(self.frame.at_risk[: min(max(risk_rows, 1), _ROWS_MAX)])
        alerts = _alert_table(self.frame.alerts[: min(max(alert_rows, 1), _ROWS_MAX)])
        tables = _beside(risk, alerts) if wide else Group(risk, Text(), alerts)
        parts = (_head(self.frame), Text(), numbers, Text(), tables, Text(), _foot(self.frame))
        yield Padding(Group(*parts), (1, 2, 0, 2))


def _head(frame: Frame) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column(justify="left", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    behind = frame.now - frame.simulated
    if behind.total_seconds() > _LIVE_WITHIN_S:
        clock = f"{frame.simulated:%-d %b %Y %H:%M}, {behind.days} days ago, in fast motion"
    else:
        clock = "the shoppers have reached the present and go on in real time"
    grid.add_row(Text("valuestream", style="bold"), Text.assemble((clock, "dim"), "   ", _span(frame.elapsed_s)))
    return grid


def _number_grid(frame: Frame, per_row: int) -> RenderableType:
    last = frame.last
    numbers = [
        (f"{rate(frame.readings, 'handled'):,.0f}", "events/s"),
        (f"{rate(frame.readings, 'scores'):,.0f}", "scores/s"),
        (f"{_ms(frame.latency_ms(0.5))} · {_ms(frame.latency_ms(0.99))}", "to score, p50 · p99"),
        (f"{last.lag:,}", "lag"),
        (f"{last.dead_letters:,}", "dead letters"),
        (f"{last.users:,}", "users"),
        (f"{last.alerts:,}", "alerts"),
    ]
    grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
    for _, label in numbers[:per_row]:
        grid.add_column(justify="left", ratio=max(len(label), 10), no_wrap=True)
    for begin in range(0, len(numbers), per_row):
        row = numbers[begin : begin + per_row]
        if begin:
            grid.add_row()
        grid.add_row(*(Text(number, style="bold cyan") for number, _ in row))
        grid.add_row(*(Text(label, style="dim") for _, label in row))
    return grid


def _beside(left: RenderableType, right: RenderableType) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(ratio=7)
    grid.add_column(ratio=5)
    grid.add_row(left, right)
    return grid


def _table(title: str, columns: Sequence[tuple[str, bool]]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for name, is_number in columns:
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    return table


def _risk_table(scores: Sequence[Score]) -> Table:
    horizons = [p.horizon_days for p in scores[0].purchase] if scores else []
    value = f"worth {scores[0].ltv.horizon_days:g} d" if scores else "worth"
    table = _table(
        "Most at risk: high churn first, then worth",
        [
            ("user", False),
            ("churn", True),
            ("", False),
            ("band", False),
            *((f"buys {days:g} d", True) for days in horizons),
            (value, True),
        ],
    )
    for score in scores:
        style = _BAND_STYLES[score.churn.band]
        table.add_row(
            Text(printable(score.user_id)),
            f"{score.churn.probability:.0%}",
            _bar(score.churn.probability, style),
            Text(score.churn.band, style=style),
            *(f"{p.probability:.0%}" for p in score.purchase),
            Text(f"{score.ltv.expected:,.2f} {printable(score.ltv.currency)}"),
        )
    if not scores:
        table.add_row(Text("none yet", style="dim"))
    return table


def _alert_table(alerts: Sequence[Alert]) -> Table:
    table = _table("Newest alerts", [("as of", False), ("user", False), ("churn", True), ("band", False)])
    for alert in alerts:
        score = alert.score
        table.add_row(
            Text(shown_time(score.as_of)[:16], style="dim"),
            Text(printable(score.user_id)),
            f"{score.churn.probability:.0%}",
            Text.assemble(
                (f"{alert.previous_band or 'new'} → ", "dim"), (score.churn.band, _BAND_STYLES[score.churn.band])
            ),
        )
    if not alerts:
        table.add_row(Text("none yet", style="dim"))
    return table


def _bar(share: float, style: str) -> Text:
    full = round(share * _BAR_WIDTH)
    return Text.assemble(("━" * full, style), ("━" * (_BAR_WIDTH - full), "grey23"))


def _foot(frame: Frame) -> Text:
    parts = ["Ctrl-C ends", *(f"{name} {place}" for name, place in frame.places.items())]
    return Text("  ·  ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.0f} s"


def _span(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
