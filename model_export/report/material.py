"""Material: what an evaluation folder holds, and which of it is drawn.

Tables are means over seeds and snapshots. A plot shows one model that could be served: the first seed on the newest
snapshot, or for calibration, which needs many users, on all. The mean of several seeds would be another, better model
than any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model_export.data.labels import head_names
from model_export.evaluation.evaluation_folder import (
    METRICS_FILE,
    Evaluation,
    Outcomes,
    Scores,
    load_evaluation,
    load_outcomes,
    load_scores,
)  # fmt: skip
from model_export.metrics.ranking import WeightedRanking, rank_predictions
from stream.errors import ConfigError

__all__ = ["DRAWN", "FUSED", "VALUE", "Array", "Material", "best_f1_threshold", "read_material"]

Array = npt.NDArray[Any]
FUSED: Final = "fused"
#: The task whose outcome is an amount.
VALUE: Final = "ltv"
#: Models whose curves are drawn, where they were measured.
DRAWN: Final[tuple[str, ...]] = (FUSED, "lightgbm", "recency", "bgnbd")


@dataclass(frozen=True)
class Material:
    """An evaluation with the outcomes and the scores behind it, by model, snapshot (newest first) and seed."""

    evaluation: Evaluation
    outcomes: list[Outcomes]
    scores: dict[str, list[list[Scores]]]

    @cached_property
    def heads(self) -> list[str]:
        """Names of the probability heads, churn first."""
        return head_names(self.evaluation.settings.labels)

    @cached_property
    def drawn_heads(self) -> list[str]:
        """Heads of which both outcomes occurred at the newest snapshot: others have no curve."""
        return [head for head in self.heads if 0 < self.actual(head).mean() < 1]

    @property
    def newest(self) -> Outcomes:
        """The test examples of the newest snapshot."""
        return self.outcomes[0]

    def drawn(self, model: str = FUSED) -> Scores:
        """Scores of the newest snapshot by the first seed."""
        return self.scores[model][0][0]

    def actual(self, head: str) -> Array:
        """Outcomes ``(n,)`` of a probability head at the newest snapshot."""
        return np.asarray(self.newest.labels[:, self.heads.index(head)])

    def probability(self, head: str) -> Array:
        """The served probabilities ``(n,)`` of a head at the newest snapshot."""
        return np.asarray(self.drawn().p[:, self.heads.index(head)])

    def all_snapshots(self, head: str) -> tuple[Array, Array, Array]:
        """Probabilities before and after calibration, and outcomes, of all snapshots together, by the first seed."""
        h, first = self.heads.index(head), [seeds[0] for seeds in self.scores[FUSED]]
        columns = ([s.p_raw for s in first], [s.p for s in first], [o.labels for o in self.outcomes])
        raw, served, actual = (np.concatenate([part[:, h] for part in column]) for column in columns)
        return raw, served, actual

    def curves(self, head: str) -> dict[str, WeightedRanking]:
        """Rankings of the drawn models at the newest snapshot."""
        h, actual = self.heads.index(head), self.actual(head)
        return {model: rank_predictions(self.drawn(model).p[:, h], actual) for model in self.scores}

    def over_seeds(self, snapshot: int, head: str, number: Callable[[Array, Array], float]) -> float:
        """Mean over seeds of a number of the fused model's probabilities and the outcomes at one snapshot."""
        h = self.heads.index(head)
        actual = self.outcomes[snapshot].labels[:, h]
        return float(np.mean([number(scores.p[:, h], actual) for scores in self.scores[FUSED][snapshot]]))


def read_material(folder: Path) -> Material:
    """Read an evaluation folder; raises ConfigError where a part is missing."""
    evaluation, outcomes = load_evaluation(folder), load_outcomes(folder)
    measured = next(iter(evaluation.tasks.values()), {})
    scores = {model: load_scores(folder, model) for model in DRAWN if model in measured}
    found = min((len(of) for of in scores.values()), default=0)
    complete = all(of_snapshot for of in scores.values() for of_snapshot in of)
    if FUSED not in scores or not found == len(evaluation.snapshots) or not complete:
        raise ConfigError(
            f"{folder} holds scores of {', '.join(scores) or 'no model'} for {found} snapshots, expected those of "
            f"{FUSED} and of the {len(evaluation.snapshots)} in {METRICS_FILE}; run `valuestream-model evaluate` again"
        )
    return Material(evaluation, outcomes, scores)


def best_f1_threshold(ranked: WeightedRanking) -> float:
    """The probability from which on calling users positive gives the best F1; the highest of several.

    >>> best_f1_threshold(rank_predictions(np.array([0.1, 0.3, 0.6, 0.9]), np.array([0, 1, 1, 1])))
    0.3
    """
    called, hits = ranked.total - ranked.cum_weight[:-1], ranked.positive - ranked.cum_outcome[:-1]
    f1 = 2 * hits / (called + ranked.positive)
    return float(ranked.predicted[len(f1) - 1 - int(np.argmax(f1[::-1]))])
