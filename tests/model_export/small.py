"""Small data to train on: random rows with a label that only the last event tells, and a small simulated shop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
from rich.progress import Progress

from model_export.data.event_log import DataConfig
from model_export.data.examples import Dataset, Examples, Plan
from model_export.network.event_bert import ModelConfig
from model_export.settings import EvaluateConfig, LabelConfig, Settings
from model_export.training.fit import FitConfig, Task
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, FEATURES

SMALL = ModelConfig(hidden=16, layers=1, heads=2, categories=0)
TYPE, CATEGORY = CHANNELS.index("type"), CHANNELS.index("category")
#: A shop that is trained in seconds: a few shoppers over three horizons and two splits.
SHOP = Settings(
    seed=3,
    data=DataConfig(users=150, days=60, seed=3),
    labels=LabelConfig(eligible_days=20, churn_days=7, purchase_days=(3, 10), value_days=10),
    snapshots=Plan(every_days=5, window_days=6),
    model=ModelConfig(hidden=8, layers=1, heads=2, categories=4, dropout=0.0),
    fit=FitConfig(epochs=2, batch_size=128, learning_rate=1e-4, class_min=5),
    evaluate=EvaluateConfig(snapshots=2, step_days=8, seeds=(7,), resamples=20),
)


def changed(settings: Settings, table: str, **values: Any) -> Settings:
    """The settings with other values in one table."""
    return msgspec.structs.replace(settings, **{table: msgspec.structs.replace(getattr(settings, table), **values)})


def examples(n: int, seed: int = 0, longest: int = 64) -> Examples:
    """Random rows. A user churns if the last event has type 7; nothing else tells."""
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(1, size, (n, 64)) for size in CHANNEL_SIZES.values()], axis=2)
    lengths = rng.integers(1, longest + 1, n)
    tokens[:, :, TYPE] = rng.integers(2, 8, (n, 64))
    churn = tokens[np.arange(n), lengths - 1, TYPE] == 7
    tokens[np.arange(64) >= lengths[:, None]] = 0
    purchase = (rng.random((n, 2)) < 0.4).astype(np.float32)
    value = np.where(purchase[:, 1] > 0, rng.lognormal(3, 0.7, n), 0.0)
    zeros = np.zeros(n, np.int64)
    return Examples(
        tokens=tokens.astype(np.uint16),
        features=rng.normal(size=(n, len(FEATURES))).astype(np.float32),
        churn=churn.astype(np.float32),
        purchase=purchase,
        value=value,
        category=zeros.astype(np.uint16),
        user=np.arange(n),
        as_of=zeros,
        applied_offset=zeros,
        at_event=np.zeros(n, bool),
    )


def data_set(n: int, longest: int = 64) -> Dataset:
    """Four splits of such rows."""
    parts = [examples(n, seed, longest) for seed in range(4)]
    return Dataset(*parts, names=[str(i) for i in range(n)], span=(0, 1), left_out=Counter())


def task(config: FitConfig, seed: int = 1, **others: Any) -> Task:
    """What a network should learn, without a next-category head and with a progress bar that prints nothing."""
    arguments: dict[str, Any] = {
        "model": SMALL, "categories": np.zeros(0, np.int64), "progress": Progress(disable=True), **others,
    }  # fmt: skip
    return Task(config=config, seed=seed, **arguments)
