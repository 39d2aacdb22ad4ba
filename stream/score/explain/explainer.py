"""Explainer: finds up to four reasons for an alert, and orders them by their effect on the score.

Evidence about a user is divided into groups. A group gives a reason if the model's churn logit falls when the group is
taken away, and if its sentence is true of this user. All groups of all users are run in one call of the scorer.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from stream.arrays import FeatureRows, RawOutputs, Seconds, TokenRows
from stream.contract.manifest import Manifest
from stream.contract.score import Reason
from stream.contract.tokens import FEATURES
from stream.errors import ContractError
from stream.score.explain.occlusion import GROUPS, occlusions
from stream.score.explain.sentences import SENTENCES, Facts, facts_of
from stream.score.scorer import RawScores
from stream.state.partition_state import Snapshot

__all__ = ["EFFECT_MIN", "REASONS_MAX", "Explainer"]

#: An alert has at most this many reasons.
REASONS_MAX: Final = 4
#: Effects up to this many logits give no reason. A change in the logit changes the probability by at most a quarter
#: of it, so these effects are at most 1.25 points.
EFFECT_MIN: Final = 0.05


class Model(Protocol):
    """The part of a :class:`stream.score.scorer.Scorer` that explaining needs."""

    manifest: Manifest

    def run(self, tokens: TokenRows, features: FeatureRows) -> RawScores:
        """Raw scores of ``n`` users: tokens ``(n, length, channels)``, features ``(n, features)``."""


class Explainer:
    """Finds the reasons for at most ``users_max`` users per call. Each of them costs as much as nine scores.

    Raises ContractError if the manifest lacks the typical features.
    """

    def __init__(self, scorer: Model, *, users_max: int) -> None:
        n_typical = len(scorer.manifest.typical)
        if n_typical != len(FEATURES):
            raise ContractError(
                f"model has {n_typical} typical feature values, expected {len(FEATURES)}; export the model again"
            )
        self.users_max = users_max
        self._scorer = scorer
        self._typical = np.array(scorer.manifest.typical, np.float32)

    def explain(self, snapshot: Snapshot, as_of: Seconds) -> list[list[Reason]]:
        """The reasons for each user of ``snapshot`` at ``as_of`` (n,), strongest first.

        Only the first ``users_max`` users get reasons. Raises ScoringError if the model cannot be run.
        """
        n = min(len(as_of), self.users_max)
        unexplained: list[list[Reason]] = [[] for _ in range(len(as_of) - n)]
        if n == 0:
            return unexplained
        first = snapshot.take(np.arange(n))
        tokens, numbers = occlusions(first, as_of[:n], self._typical)
        # The first row is the users as they are, then there is one row without each group.
        churn = self._scorer.run(tokens, numbers).churn.reshape(-1, n)
        effects = (churn[0] - churn[1:]).T
        currency = self._scorer.manifest.currency
        facts = facts_of(first, as_of[:n], numbers=numbers[:n], typical=self._typical, currency=currency)
        return [_reasons(*user) for user in zip(effects, facts, strict=True)] + unexplained


def _reasons(effects: RawOutputs, facts: Facts) -> list[Reason]:
    """The strongest reasons for one user, among those with a true sentence; ``effects`` is ``(groups,)``."""
    reasons: list[Reason] = []
    for group in np.argsort(-effects, kind="stable").tolist():
        if effects[group] <= EFFECT_MIN or len(reasons) == REASONS_MAX:
            break
        code = GROUPS[group].code
        if text := SENTENCES[code](facts):
            reasons.append(Reason(code, text, round(float(effects[group]), 4)))
    return reasons
