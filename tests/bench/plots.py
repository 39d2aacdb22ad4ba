"""Plots: the plots of the benchmark as SVG. The same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["curve", "overload", "scale", "systems"]

_RC: Final = {
    "svg.hashsalt": "valuestream",
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    # Some readers have dark pages, so the picture has a background of its own.
    "figure.facecolor": "white",
}
_OURS, _OTHERS, _THIRD = "#1f6feb", "#8b98a5", "#d1495b"
Points = Sequence[Mapping[str, Any]]


def systems(rates: Mapping[str, float]) -> str:
    """Events per second of each system, on a logarithmic scale."""

    def draw(ax: Axes) -> None:
        names = list(rates)[::-1]
        colours = [_OURS if name.startswith("valuestream") else _OTHERS for name in names]
        bars = ax.barh(names, [rates[name] for name in names], color=colours)
        ax.bar_label(bars, labels=[f"{rates[name]:,.0f}" for name in names], padding=3)
        ax.set(xscale="log", xlabel="events per second")
        ax.margins(x=0.15)

    return _drawn(draw, height=3.2)


def curve(points: Points) -> str:
    """Median and 99th percentile of the latency over the rate of events."""

    def draw(ax: Axes) -> None:
        rates = [p["events_per_second"] for p in points]
        for what, colour in (("p50_ms", _OURS), ("p99_ms", _THIRD)):
            ax.plot(rates, [p[what] for p in points], marker="o", color=colour, label=what.removesuffix("_ms"))
        ax.set(xscale="log", yscale="log", xlabel="events per second", ylabel="event → score, ms")
        ax.legend()

    return _drawn(draw)


def scale(points: Points) -> str:
    """Events per second, and memory, over the number of users."""

    def draw(rate: Axes, memory: Axes) -> None:
        for keys, colour in (("uniform", _OURS), ("zipf", _THIRD)):
            chosen = [p for p in points if p["keys"] == keys]
            users = [p["users"] for p in chosen]
            rate.plot(users, [p["events_per_second"] for p in chosen], marker="o", color=colour, label=keys)
            memory.plot(users, [p["rss_bytes"] / 1e6 for p in chosen], marker="o", color=colour, label=keys)
        rate.set(xscale="log", ylim=(0, None), xlabel="users", ylabel="events per second")
        memory.set(xscale="log", yscale="log", xlabel="users", ylabel="RSS, MB")
        rate.legend()

    return _drawn(draw, axes=2)


def overload(found: Mapping[str, Any]) -> str:
    """How much was ingested and scored, and how long the longest wait was, second by second."""

    def draw(rate: Axes, wait: Axes) -> None:
        samples = found["samples"]
        seconds = [s["t_s"] for s in samples]
        rate.plot(seconds, [s["ingested_per_s"] for s in samples], color=_OURS, label="ingested")
        rate.plot(seconds, [s["scored_per_s"] for s in samples], color=_THIRD, label="scored")
        wait.plot(seconds, [s["oldest_wait_s"] for s in samples], color=_OTHERS)
        rate.set(ylim=(0, None), xlabel="seconds", ylabel="per second")
        wait.set(ylim=(0, None), xlabel="seconds", ylabel="longest wait, s")
        rate.legend()

    return _drawn(draw, axes=2)


def _drawn(draw: Callable[..., None], *, height: float = 3.0, axes: int = 1) -> str:
    with matplotlib.style.context([_RC], after_reset=True):
        figure = Figure(figsize=(7.5, height))
        draw(*(figure.add_subplot(1, axes, i + 1) for i in range(axes)))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    # matplotlib ends the lines of path data with blanks.
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
