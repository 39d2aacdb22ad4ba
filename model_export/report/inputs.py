"""Report inputs: reads what an evaluation folder holds, and chooses which part of it is plotted.

Tables show means over seeds and snapshots. A plot shows one model that could be served: the first seed on the newest
snapshot. Calibration needs many users, so its plot shows all snapshots. The mean of several seeds would be another
model, and a better one than any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from model_export.data.labels import head_names
from model_export.evaluation.evaluation_folder import (
    METRICS_FILE,
    Evaluation,
    ScoredExamples,
    Scores,
    load_evaluation,
    load_scored_examples,
    load_scores,
)  # fmt: skip
from model_export.metrics.ranking import WeightedRanking, rank_predictions
from stream.arrays import Floats, Numbers, Probabilities
from stream.errors import ConfigError

__all__ = ["FUSED", "PLOTTED", "VALUE", "ReportInputs", "best_f1_threshold", "read_report_inputs"]

#: The model that the report is about.
FUSED: Final = "fused"
#: The task that predicts an amount.
VALUE: Final = "ltv"
#: Models that have a curve in the plots, if they were measured.
PLOTTED: Final[tuple[str, ...]] = (FUSED, "lightgbm", "recency", "bgnbd")


@dataclass(frozen=True)
class ReportInputs:
    """An evaluation, with the examples and the scores that it was measured on."""

    evaluation: Evaluation
    #: The examples of each snapshot, newest first.
    examples: list[ScoredExamples]
    #: model → snapshot, newest first → seed
    scores: dict[str, list[list[Scores]]]

    @cached_property
    def heads(self) -> list[str]:
        """Names of the probability heads, churn first."""
        return head_names(self.evaluation.settings.labels)

    @cached_property
    def plotted_heads(self) -> list[str]:
        """Heads with labels of both classes at the newest snapshot: others have no curve."""
        return [head for head in self.heads if 0 < self.actual(head).mean() < 1]

    @property
    def newest(self) -> ScoredExamples:
        """The test examples of the newest snapshot."""
        return self.examples[0]

    def plotted_scores(self, model: str = FUSED) -> Scores:
        """Scores of the newest snapshot with the first seed."""
        return self.scores[model][0][0]

    def actual(self, head: str) -> Numbers:
        """Labels ``(n,)`` of a probability head at the newest snapshot."""
        return np.asarray(self.newest.labels[:, self.heads.index(head)])

    def probability(self, head: str) -> Probabilities:
        """The served probabilities ``(n,)`` of a head at the newest snapshot."""
        return np.asarray(self.plotted_scores().p[:, self.heads.index(head)])

    def all_snapshots(self, head: str) -> tuple[Probabilities, Probabilities, Numbers]:
        """Probabilities before and after calibration, and labels, of all snapshots together, with the first seed."""
        h, first = self.heads.index(head), [seeds[0] for seeds in self.scores[FUSED]]
        raw = np.concatenate([scores.p_raw[:, h] for scores in first])
        calibrated = np.concatenate([scores.p[:, h] for scores in first])
        return raw, calibrated, np.concatenate([examples.labels[:, h] for examples in self.examples])

    def curves(self, head: str) -> dict[str, WeightedRanking]:
        """Rankings by each of the plotted models at the newest snapshot."""
        h, actual = self.heads.index(head), self.actual(head)
        return {model: rank_predictions(self.plotted_scores(model).p[:, h], actual) for model in self.scores}

    def mean_over_seeds(self, snapshot: int, head: str, metric: Callable[[Floats, Numbers], float]) -> float:
        """Mean over seeds of a metric of the fused model's probabilities and the labels at one snapshot."""
        h = self.heads.index(head)
        actual = self.examples[snapshot].labels[:, h]
        return float(np.mean([metric(scores.p[:, h], actual) for scores in self.scores[FUSED][snapshot]]))


def read_report_inputs(folder: Path) -> ReportInputs:
    """Read an evaluation folder. Raises ConfigError if a part is missing."""
    evaluation, examples = load_evaluation(folder), load_scored_examples(folder)
    measured = next(iter(evaluation.tasks.values()), {})
    scores = {model: load_scores(folder, model) for model in PLOTTED if model in measured}
    n_snapshots = min((len(by_snapshot) for by_snapshot in scores.values()), default=0)
    complete = all(seeds for by_snapshot in scores.values() for seeds in by_snapshot)
    if FUSED not in scores or n_snapshots != len(evaluation.snapshots) or not complete:
        raise ConfigError(
            f"{folder} holds scores of {', '.join(scores) or 'no model'} for {n_snapshots} snapshots, "
            f"expected those of {FUSED} and of the {len(evaluation.snapshots)} in {METRICS_FILE}; "
            "run `valuestream-model evaluate` again"
        )
    return ReportInputs(evaluation, examples, scores)


def best_f1_threshold(ranked: WeightedRanking) -> float:
    """The threshold with the best F1: users with this probability or more are called positive. The highest of several.

    >>> best_f1_threshold(rank_predictions(np.array([0.1, 0.3, 0.6, 0.9]), np.array([0, 1, 1, 1])))
    0.3
    """
    called, hits = ranked.total - ranked.cum_weight[:-1], ranked.positive - ranked.cum_outcome[:-1]
    f1 = 2 * hits / (called + ranked.positive)
    return float(ranked.predicted[len(f1) - 1 - int(np.argmax(f1[::-1]))])
