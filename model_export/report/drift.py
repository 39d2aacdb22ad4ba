"""Drift section: shows what changed between the snapshots, in the users and in what the model says of them."""

from __future__ import annotations

from typing import Final

import numpy as np

from model_export.metrics.measures import auc, ece
from model_export.metrics.ranking import rank_predictions
from model_export.report.inputs import FUSED, ReportInputs
from model_export.report.markup import Markup, figure, grid, paragraph, section, table
from model_export.report.plots import PSI_MODERATE, PSI_STRONG, psi_plot, snapshots_plot
from model_export.report.shares import Shares
from model_export.report.wording import number, task_titles
from stream.arrays import Numbers
from stream.contract.tokens import FEATURES

__all__ = ["drift_section", "psi"]

#: How many of the features that moved most are plotted.
_FEATURES_MAX: Final = 10


def drift_section(inputs: ReportInputs) -> Markup:
    """Features that moved most, and base rate, prediction, AUC and ECE of every snapshot."""
    titles = task_titles(inputs.evaluation.settings.labels)
    shares = {head: _shares_by_snapshot(inputs, head) for head in inputs.heads}
    return section(
        "What changed over time",
        paragraph(
            "Each snapshot is scored by a model that was trained only on the time before it. If the base rate moves "
            "and the prediction stays, season or market has changed: recalibrate on the latest labels that have closed."
        ),
        grid(*(figure(snapshots_plot(titles[head], by_snapshot), head) for head, by_snapshot in shares.items())),
        table(
            "Fused model; means over seeds. Score PSI compares its probabilities with those of the oldest snapshot.",
            ["task", "snapshot", "examples", "base rate", "mean prediction", "AUC", "ECE", "score PSI"],
            [row for head, by_snapshot in shares.items() for row in _rows(inputs, head, by_snapshot)],
        ),
        _moved_features(inputs),
    )


def _shares_by_snapshot(inputs: ReportInputs, head: str) -> Shares:
    """Shares of one head at every snapshot, oldest first, as a plot shows time."""
    h, ages = inputs.heads.index(head), range(len(inputs.examples))[::-1]
    return Shares.with_intervals(
        [inputs.evaluation.snapshots[k][0] for k in ages],
        np.array([len(inputs.examples[k].user) for k in ages]),
        np.array([inputs.mean_over_seeds(k, head, lambda p, _: float(p.mean())) for k in ages]),
        np.array([inputs.examples[k].labels[:, h].mean() for k in ages]),
    )


def _rows(inputs: ReportInputs, head: str, shares: Shares) -> list[list[str]]:
    h, last = inputs.heads.index(head), len(inputs.examples) - 1
    oldest = inputs.scores[FUSED][last][0].p[:, h]
    rows = []
    for i, day in enumerate(shares.labels):
        k = last - i
        measured = {
            "auc": inputs.mean_over_seeds(k, head, lambda p, y: auc(rank_predictions(p, y))),
            "ece": inputs.mean_over_seeds(k, head, lambda p, y: ece(rank_predictions(p, y))),
        }
        rows.append([
            head, day, f"{shares.n[i]:,}", f"{shares.observed[i]:.3f} [{shares.low[i]:.3f}, {shares.high[i]:.3f}]",
            f"{shares.predicted[i]:.3f}", *(number(m, x if np.isfinite(x) else None) for m, x in measured.items()),
            f"{psi(oldest, inputs.scores[FUSED][k][0].p[:, h]):.2f}",
        ])  # fmt: skip
    return rows


def _moved_features(inputs: ReportInputs) -> Markup:
    if len(inputs.examples) < 2:
        return paragraph("There is one snapshot, so features cannot be compared; evaluate.snapshots sets the number.")
    old, new = inputs.examples[-1].features, inputs.newest.features
    moved = {name: psi(old[:, i], new[:, i]) for i, name in enumerate(FEATURES)}
    top = dict(sorted(((name, x) for name, x in moved.items() if x > 0), key=lambda item: -item[1])[:_FEATURES_MAX])
    strong = sum(x >= PSI_STRONG for x in moved.values())
    moderate = sum(x >= PSI_MODERATE for x in moved.values()) - strong
    first, last = inputs.evaluation.snapshots[-1][0], inputs.evaluation.snapshots[0][0]
    return paragraph(
        f"Of {len(moved)} features, {strong} moved strongly (PSI {PSI_STRONG:g} or more) and {moderate} moderately "
        f"({PSI_MODERATE:g} or more) between {first} and {last}."
    ) + grid(figure(psi_plot("Features that moved most", list(top), list(top.values())), f"{first} to {last}."))


def psi(before: Numbers, after: Numbers) -> float:
    """Population stability index over the tenths of ``before`` (Siddiqi 2006): 0 if nothing moved.

    An empty bin counts as half an example; equal values stay in one bin.

    >>> psi(np.arange(100.0), np.arange(100.0)), psi(np.arange(100.0), np.arange(100.0) + 50) > PSI_STRONG
    (0.0, True)
    """
    edges = np.unique(np.quantile(before, np.linspace(0.1, 0.9, 9)))
    shares = []
    for values in (before, after):
        counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        shares.append(np.maximum(counts, 0.5) / len(values))
    old, new = shares
    return float(((new - old) * np.log(new / old)).sum())
