"""Drift: what changed between the test snapshots, in the users and in what the model makes of them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model_export.metrics.measures import auc, ece
from model_export.metrics.ranking import rank_predictions
from model_export.report.markup import figure, grid, paragraph, section, table
from model_export.report.material import FUSED, Material
from model_export.report.plots import PSI_MODERATE, PSI_STRONG, bars_of_psi, snapshots
from model_export.report.shares import Shares
from model_export.report.wording import number, task_titles
from stream.contract.tokens import FEATURES

__all__ = ["drift", "psi"]

Array = npt.NDArray[Any]
_FEATURES_MAX: Final = 10


def drift(material: Material) -> str:
    """Features that moved most, and base rate, prediction, AUC and ECE of every snapshot."""
    titles = task_titles(material.evaluation.settings.labels)
    shares = {head: _shares_by_snapshot(material, head) for head in material.heads}
    return section(
        "What changed over time",
        paragraph(
            "Each snapshot is tested by a model that was trained on the time before it alone. Where the base rate "
            "moves and the prediction stays, season or market has changed: recalibrate on the latest closed window."
        ),
        grid(*(figure(snapshots(titles[head], of), head) for head, of in shares.items())),
        table(
            "Fused model; means over seeds. Score PSI compares its probabilities with those of the oldest snapshot.",
            ["task", "snapshot", "examples", "base rate", "mean prediction", "AUC", "ECE", "score PSI"],
            [row for head, of in shares.items() for row in _rows(material, head, of)],
        ),
        _moved_features(material),
    )


def _shares_by_snapshot(material: Material, head: str) -> Shares:
    """Oldest first, as time goes in a plot."""
    h, ages = material.heads.index(head), range(len(material.outcomes))[::-1]
    return Shares.of(
        [material.evaluation.snapshots[k][0] for k in ages],
        np.array([len(material.outcomes[k].user) for k in ages]),
        np.array([material.over_seeds(k, head, lambda p, _: float(p.mean())) for k in ages]),
        np.array([material.outcomes[k].labels[:, h].mean() for k in ages]),
    )


def _rows(material: Material, head: str, shares: Shares) -> list[list[str]]:
    h, last = material.heads.index(head), len(material.outcomes) - 1
    oldest = material.scores[FUSED][last][0].p[:, h]
    rows = []
    for i, day in enumerate(shares.labels):
        k = last - i
        measured = {
            "auc": material.over_seeds(k, head, lambda p, y: auc(rank_predictions(p, y))),
            "ece": material.over_seeds(k, head, lambda p, y: ece(rank_predictions(p, y))),
        }
        rows.append([
            head, day, f"{shares.n[i]:,}", f"{shares.observed[i]:.3f} [{shares.low[i]:.3f}, {shares.high[i]:.3f}]",
            f"{shares.predicted[i]:.3f}", *(number(m, x if np.isfinite(x) else None) for m, x in measured.items()),
            f"{psi(oldest, material.scores[FUSED][k][0].p[:, h]):.2f}",
        ])  # fmt: skip
    return rows


def _moved_features(material: Material) -> str:
    if len(material.outcomes) < 2:
        return paragraph("There is one snapshot, so features cannot be compared; evaluate.snapshots sets the number.")
    old, new = material.outcomes[-1].features, material.newest.features
    moved = {name: psi(old[:, i], new[:, i]) for i, name in enumerate(FEATURES)}
    top = dict(sorted(((name, x) for name, x in moved.items() if x > 0), key=lambda item: -item[1])[:_FEATURES_MAX])
    strong = sum(x >= PSI_STRONG for x in moved.values())
    moderate = sum(x >= PSI_MODERATE for x in moved.values()) - strong
    first, last = material.evaluation.snapshots[-1][0], material.evaluation.snapshots[0][0]
    return paragraph(
        f"Of {len(moved)} features, {strong} moved strongly (PSI {PSI_STRONG:g} or more) and {moderate} moderately "
        f"({PSI_MODERATE:g} or more) between {first} and {last}."
    ) + grid(figure(bars_of_psi("Features that moved most", list(top), list(top.values())), f"{first} to {last}."))


def psi(before: Array, after: Array) -> float:
    """Population stability index over the tenths of ``before`` (Siddiqi 2006): 0 where nothing moved.

    An empty bin counts as half an example; equal values stay in one bin.

    >>> psi(np.arange(100.0), np.arange(100.0)), psi(np.arange(100.0), np.arange(100.0) + 50) > PSI_STRONG
    (0.0, True)
    """
    edges = np.unique(np.quantile(before, np.linspace(0.1, 0.9, 9)))
    shares = []
    for values in (before, after):
        counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        shares.append(np.maximum(counts, 0.5) / len(values))
    was, now = shares
    return float(((now - was) * np.log(now / was)).sum())
