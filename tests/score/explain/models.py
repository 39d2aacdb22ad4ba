"""Models with a known right answer, and users, for the tests of explaining."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from stream.contract.events import N_TYPES, EventType
from stream.contract.tokens import CHANNELS, FEATURES
from stream.score.encode import encode
from stream.score.explain.occlusion import GROUPS, Group
from stream.score.features import features
from stream.score.scorer import RawScores
from stream.state.partition_state import PartitionState, Snapshot
from tests.score.test_encode import event
from tests.state.reference import Plain
from tests.state.test_partition_state import DAY, START

CODES = tuple(group.code for group in GROUPS)
HAPPENED = tuple(group for group in GROUPS if group.types)
LACKS = tuple(group for group in GROUPS[1:] if not group.types)
TYPE = CHANNELS.index("type")


@dataclass
class Linear:
    """A model whose right answer is known: weights of features, and of each event in the history by its type."""

    of_feature: np.ndarray = field(default_factory=lambda: np.zeros(len(FEATURES)))
    of_event: np.ndarray = field(default_factory=lambda: np.zeros(N_TYPES))
    typical: np.ndarray = field(default_factory=lambda: np.zeros(len(FEATURES)))
    rows: list[int] = field(default_factory=list)

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(typical=tuple(self.typical.tolist()), currency="EUR")

    def run(self, tokens: np.ndarray, features: np.ndarray) -> RawScores:
        self.rows.append(len(tokens))
        n_events = (tokens[:, :, TYPE, None] == np.arange(1, N_TYPES + 1)).sum(axis=1)
        churn = features @ self.of_feature + n_events @ self.of_event
        return RawScores(churn, np.zeros((len(tokens), 1)), np.zeros((len(tokens), 2)))

    def score(self, snapshot: Snapshot, as_of: np.ndarray) -> np.ndarray:
        return self.run(encode(snapshot, as_of), features(snapshot, as_of)).churn


def columns(group: Group) -> list[int]:
    return [FEATURES.index(name) for name in group.features]


def everyone(state: PartitionState, age_s: int) -> tuple[Snapshot, np.ndarray]:
    snapshot = state.snapshot(np.arange(len(state)))
    return snapshot, snapshot.users["last_time"].astype(np.int64) + age_s


def drawn(seed: int) -> Linear:
    """Any linear model, with any typical user."""
    rng = np.random.default_rng(seed)
    return Linear(
        rng.normal(size=len(FEATURES)),
        rng.normal(size=N_TYPES),
        rng.uniform(0, 4, len(FEATURES)).astype(np.float32).astype(float),
    )


@dataclass
class Blaming:
    """A model for which every user's groups have these effects (code → logits), whatever the user did."""

    effects: dict[str, float]
    typical: dict[str, float] = field(default_factory=dict)

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(typical=tuple(self.typical.get(name, 0.0) for name in FEATURES), currency="EUR")

    def run(self, tokens: np.ndarray, features: np.ndarray) -> RawScores:
        churn = np.zeros((1 + len(GROUPS), len(tokens) // (1 + len(GROUPS))))
        for code, effect in self.effects.items():
            churn[1 + CODES.index(code)] = -effect
        return RawScores(churn.ravel(), np.zeros((len(tokens), 1)), np.zeros((len(tokens), 2)))


def ago(days: float, kind: EventType = EventType.PURCHASE, value: int = 0) -> Plain:
    """An event so many days before noon of START's day; ``value`` in hundredths."""
    return event(START // DAY * DAY + DAY // 2 - round(days * DAY), kind, value)
