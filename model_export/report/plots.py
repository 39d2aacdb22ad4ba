"""Plots: draws the small figures of the report, each with an alternative text that gives its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes

from model_export.metrics.ranking import WeightedRanking
from model_export.report.markup import Markup
from model_export.report.shares import Shares
from model_export.report.svg import draw_svg
from stream.arrays import Floats, Numbers

__all__ = [
    "PSI_MODERATE",
    "PSI_STRONG",
    "cohorts_plot",
    "gain_plot",
    "one_time_buyers_plot",
    "precision_recall_plot",
    "psi_plot",
    "reliability_plot",
    "roc_plot",
    "snapshots_plot",
    "value_plot",
]  # fmt: skip

#: Population stability index from which a shift counts as moderate, and as strong (Siddiqi 2006).
PSI_MODERATE: Final = 0.1
PSI_STRONG: Final = 0.25
#: Colours that can be told apart without red-green vision (Okabe & Ito 2008), and line styles for print without colour.
_BLUE, _ORANGE, _GREEN, _GREY, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#6B6B6B", "#CC79A7"
_LINES: Final[dict[str, tuple[str, Any]]] = {
    "fused": (_BLUE, "-"), "lightgbm": (_ORANGE, (0, (5, 1.5))), "recency": (_GREY, (0, (1, 1.2))),
    "bgnbd": (_GREEN, (0, (5, 1.2, 1, 1.2))),
}  # fmt: skip
#: A curve on a small plot shows no more than this many points.
_POINTS: Final = 200


def gain_plot(title: str, curves: dict[str, WeightedRanking]) -> Markup:
    """Share of all positives found by contacting the users ranked highest."""

    def draw(ax: Axes) -> None:
        for model, ranked in curves.items():
            contacted, found = _called(ranked)
            _line(ax, model, contacted / ranked.total, found / ranked.positive)
        _unit_square(ax, "share of users contacted", "share of all positives found")

    return draw_svg(title, f"Cumulative gain: {title}. Curves of {_named(curves)}.", draw, diagonal="at random")


def roc_plot(title: str, curves: dict[str, WeightedRanking]) -> Markup:
    """ROC curves."""

    def draw(ax: Axes) -> None:
        for model, ranked in curves.items():
            called, hits = _called(ranked)
            _line(ax, model, (called - hits) / (ranked.total - ranked.positive), hits / ranked.positive)
        _unit_square(ax, "false positive rate", "true positive rate")

    return draw_svg(title, f"ROC: {title}. Curves of {_named(curves)}.", draw, diagonal="at random")


def precision_recall_plot(title: str, curves: dict[str, WeightedRanking]) -> Markup:
    """Precision by recall, with the base rate."""

    one = next(iter(curves.values()))

    def draw(ax: Axes) -> None:
        for model, ranked in curves.items():
            called, hits = (sums[1:] for sums in _called(ranked))
            _line(ax, model, hits / ranked.positive, hits / called)
        ax.axhline(one.positive / one.total, color="#9aa5b1", linewidth=1, label="base rate")
        _unit_square(ax, "recall", "precision")

    return draw_svg(title, f"Precision and recall: {title}. Curves of {_named(curves)}.", draw)


def reliability_plot(title: str, before: tuple[Floats, Floats], after: Shares) -> Markup:
    """Observed share by predicted probability, before (predicted, observed) and after calibration."""
    top = max(_top(after), min(1.02, 1.08 * max(*before[0], *before[1])))

    def draw(ax: Axes) -> None:
        ax.plot(*before, color=_ORANGE, marker="s", markersize=4, mfc="white", linewidth=0.9, label="before")
        _bars(ax, after.predicted, after)
        ax.set(xlabel="predicted probability", ylabel="share that came true", xlim=(0, top), ylim=(0, top))

    text = f"Reliability: {title}. Ten tenths of users: predicted {_few(after.predicted)}, true {_few(after.observed)}."
    return draw_svg(title, text, draw, diagonal="perfect")


def value_plot(title: str, currency: str, *, actual: Floats, after: Floats, before: Floats) -> Markup:
    """Mean value of tenths of users, lowest predictions first: actual, predicted after and before recalibration."""

    def draw(ax: Axes) -> None:
        tenths = np.arange(1, len(actual) + 1)
        ax.bar(tenths, actual, color="#c9d3dc", width=0.75, label="actual")
        ax.plot(tenths, before, "s", color=_ORANGE, mfc="white", markersize=5, label="predicted, before")
        ax.plot(tenths, after, "o", color=_BLUE, markersize=5, label="predicted, after")
        ax.set(xlabel="tenth of users, highest predictions last", ylabel=f"mean value, {currency}", xticks=tenths)
        ax.grid(axis="x", visible=False)

    return draw_svg(title, f"Value by tenth of users: predicted {_few(after)}, actual {_few(actual)} {currency}.", draw)


def cohorts_plot(title: str, shares: Shares) -> Markup:
    """Predicted and observed share of cohorts, a row for each."""

    def draw(ax: Axes) -> None:
        rows = np.arange(len(shares.labels))[::-1]
        spread = np.abs(np.stack((shares.observed - shares.low, shares.high - shares.observed)))
        ax.errorbar(shares.observed, rows, xerr=spread, fmt="o", color=_GREY, markersize=4, label="observed")
        ax.plot(shares.predicted, rows, "D", color=_BLUE, markersize=4, label="predicted")
        ax.set(yticks=rows, yticklabels=shares.labels, xlim=(0, _top(shares)), xlabel="share")

    text = f"By cohort: {title}. " + "; ".join(
        f"{label}: predicted {p:.2f}, observed {o:.2f}"
        for label, p, o in zip(shares.labels, shares.predicted, shares.observed, strict=True)
    )
    return draw_svg(title, text, draw, height=1.1 + 0.22 * len(shares.labels))


def one_time_buyers_plot(title: str, days: Floats, shares: Shares) -> Markup:
    """Share of one-time buyers who order again, by days since their order."""

    def draw(ax: Axes) -> None:
        ax.plot(days, shares.predicted, "-", color=_BLUE, label="predicted")
        _bars(ax, days, shares, color=_GREY, label="observed")
        ax.set(xlabel="days since the only order", ylabel="share that orders again", ylim=(0, _top(shares)))

    return draw_svg(title, f"One-time buyers: predicted {_few(shares.predicted)}, true {_few(shares.observed)}.", draw)


def psi_plot(title: str, names: Sequence[str], psi: Sequence[float]) -> Markup:
    """Population stability index of features; the feature that moved most comes first."""

    def draw(ax: Axes) -> None:
        rows = np.arange(len(names))[::-1]
        colours = [_ORANGE if x >= PSI_STRONG else _PURPLE if x >= PSI_MODERATE else "#9fb3c8" for x in psi]
        ax.barh(rows, psi, color=colours, height=0.7)
        for threshold, word, style in ((PSI_MODERATE, "moderate", ":"), (PSI_STRONG, "strong", "--")):
            ax.axvline(threshold, color="#1c2733", linestyle=style, linewidth=1, label=f"{threshold:g}, {word}")
        ax.set(yticks=rows, yticklabels=names, xlabel="population stability index")
        ax.grid(axis="y", visible=False)

    text = "Drift of features: " + ", ".join(f"{name} {x:.2f}" for name, x in zip(names, psi, strict=True))
    return draw_svg(title, text, draw, height=1.1 + 0.22 * len(names))


def snapshots_plot(title: str, shares: Shares) -> Markup:
    """Base rate and mean prediction of each snapshot, oldest first."""

    def draw(ax: Axes) -> None:
        x = np.arange(len(shares.labels))
        ax.plot(x - 0.06, shares.predicted, "D", color=_BLUE, markersize=5, label="mean prediction")
        _bars(ax, x + 0.06, shares, color=_GREY, label="base rate")
        ax.set(
            xticks=x,
            xticklabels=shares.labels,
            ylabel="share",
            ylim=(0, _top(shares)),
            xlim=(-0.5, len(shares.labels) - 0.5),
        )

    text = f"{title} by snapshot: predicted {_few(shares.predicted)}, observed {_few(shares.observed)}."
    return draw_svg(title, text, draw)


def _top(shares: Shares) -> float:
    """End of an axis that starts at 0 and shows all shares, with room for their marks."""
    return min(1.02, 1.08 * float(np.max((shares.predicted, shares.high))))


def _called(ranked: WeightedRanking) -> tuple[Numbers, Numbers]:
    """Weight of users called positive, and of true positives among them, as the threshold falls; both start at 0."""
    called = (ranked.total - ranked.cum_weight)[::-1]
    hits = (ranked.positive - ranked.cum_outcome)[::-1]
    kept = np.unique(np.linspace(0, len(called) - 1, _POINTS).round().astype(int))
    return called[kept], hits[kept]


def _line(ax: Axes, model: str, x: Numbers, y: Numbers) -> None:
    colour, style = _LINES[model]
    ax.plot(x, y, color=colour, linestyle=style, label=model)


def _bars(ax: Axes, x: Numbers, shares: Shares, *, color: str = _BLUE, label: str = "after, 95 % interval") -> None:
    spread = np.abs(np.stack((shares.observed - shares.low, shares.high - shares.observed)))
    ax.errorbar(x, shares.observed, yerr=spread, fmt="o", color=color, markersize=4, elinewidth=1.1, label=label)


def _unit_square(ax: Axes, x: str, y: str) -> None:
    ax.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))


def _named(curves: dict[str, WeightedRanking]) -> str:
    return ", ".join(curves)


def _few(numbers: Floats) -> str:
    return ", ".join(f"{x:.3g}" for x in numbers)
