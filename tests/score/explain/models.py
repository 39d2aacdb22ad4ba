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
    """A model with a known right answer: weights of features, and of each event in the history by its type."""

    feature_weights: np.ndarray = field(default_factory=lambda: np.zeros(len(FEATURES)))
    event_weights: np.ndarray = field(default_factory=lambda: np.zeros(N_TYPES))
    typical: np.ndarray = field(default_factory=lambda: np.zeros(len(FEATURES)))
    rows: list[int] = field(default_factory=list)

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(typical=tuple(self.typical.tolist()), currency="EUR")

    def run(self, tokens: np.ndarray, features: np.ndarray) -> RawScores:
        self.rows.append(len(tokens))
        n_events = (tokens[:, :, TYPE, None] == np.arange(1, N_TYPES + 1)).sum(axis=1)
        churn = features @ self.feature_weights + n_events @ self.event_weights
        return RawScores(churn, np.zeros((len(tokens), 1)), np.zeros((len(tokens), 2)))

    def score(self, snapshot: Snapshot, as_of: np.ndarray) -> np.ndarray:
        return self.run(encode(snapshot, as_of), features(snapshot, as_of)).churn


def columns(group: Group) -> list[int]:
    return [FEATURES.index(name) for name in group.features]


def everyone(state: PartitionState, age_s: int) -> tuple[Snapshot, np.ndarray]:
    snapshot = state.snapshot(np.arange(len(state)))
    return snapshot, snapshot.users["last_time"].astype(np.int64) + age_s


def random_model(seed: int) -> Linear:
    """A random linear model with a random typical user."""
    rng = np.random.default_rng(seed)
    return Linear(
        rng.normal(size=len(FEATURES)),
        rng.normal(size=N_TYPES),
        rng.uniform(0, 4, len(FEATURES)).astype(np.float32).astype(float),
    )


@dataclass
class Blaming:
    """A model in which the groups have these effects (code → logits), whatever the users did."""

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
