"""Explain: an alert → up to four reasons, in words that are true and in order of what they do to the score.

A reason is given only where the model's churn logit falls when the group of evidence is taken away, and where the
sentence holds for this user. All groups of all users are run together, in one call of the scorer.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from stream.contract.manifest import Manifest
from stream.contract.score import Reason
from stream.contract.tokens import FEATURES
from stream.errors import ContractError
from stream.score.explain.occlusion import GROUPS, occlusions
from stream.score.explain.sentences import SENTENCES, Facts, facts_of
from stream.score.scorer import RawScores
from stream.state.partition_state import Snapshot

__all__ = ["EFFECT_MIN", "REASONS_MAX", "Explainer"]

Array = npt.NDArray[Any]
REASONS_MAX: Final = 4
#: In logits. A logit moves a probability by at most a quarter of itself, so less than this is 1.25 points at most.
EFFECT_MIN: Final = 0.05


class Model(Protocol):
    """What is needed of a :class:`stream.score.scorer.Scorer`."""

    manifest: Manifest

    def run(self, tokens: npt.NDArray[np.int32], features: npt.NDArray[np.float32]) -> RawScores:
        """Score ``(n, length, channels)`` and ``(n, features)``."""


class Explainer:
    """Gives the reasons of at most ``users_max`` users at a time, at the cost of nine scores each."""

    def __init__(self, scorer: Model, *, users_max: int) -> None:
        found = len(scorer.manifest.typical)
        if found != len(FEATURES):
            raise ContractError(
                f"model has {found} typical feature values, expected {len(FEATURES)}; export the model again"
            )
        self.users_max = users_max
        self._scorer = scorer
        self._typical = np.array(scorer.manifest.typical, np.float32)

    def explain(self, snapshot: Snapshot, as_of: Array) -> list[list[Reason]]:
        """Reasons of each user at ``as_of`` (seconds), strongest first; those beyond ``users_max`` get none.

        Raises ScoringError where the model cannot be run.
        """
        n = min(len(as_of), self.users_max)
        beyond: list[list[Reason]] = [[] for _ in range(len(as_of) - n)]
        if n == 0:
            return beyond
        first = snapshot.take(np.arange(n))
        tokens, numbers = occlusions(first, as_of[:n], self._typical)
        churn = self._scorer.run(tokens, numbers).churn.reshape(-1, n)
        effects = (churn[0] - churn[1:]).T
        facts = facts_of(first, as_of[:n], numbers[:n], self._typical, self._scorer.manifest.currency)
        return [_reasons(*of_user) for of_user in zip(effects, facts, strict=True)] + beyond


def _reasons(effects: Array, facts: Facts) -> list[Reason]:
    """The strongest reasons of one user whose sentences are true; ``effects`` is ``(groups,)``."""
    reasons: list[Reason] = []
    for g in np.argsort(-effects, kind="stable").tolist():
        if effects[g] <= EFFECT_MIN or len(reasons) == REASONS_MAX:
            break
        code = GROUPS[g].code
        if text := SENTENCES[code](facts):
            reasons.append(Reason(code, text, round(float(effects[g]), 4)))
    return reasons
