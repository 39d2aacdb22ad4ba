"""A small network, its run folder, and random rows to run through it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import torch

from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.run_folder import Run, Sample, save_run
from model_export.settings import Settings
from stream.contract.manifest import Calibration, Calibrator, HeadCalibration
from stream.contract.tokens import CHANNEL_SIZES, FEATURES

CONFIG = ModelConfig(hidden=16, layers=2, heads=2)
#: Names of the next-category classes.
CATEGORIES = ("shoes", "hats", "socks")
#: Rows of a sample.
N = 96


def network(seed: int = 0, categories: int = len(CATEGORIES)) -> EventBert:
    """A random network. No weight is left at its zero start, so every part of it changes the outputs."""
    torch.manual_seed(seed)
    net = EventBert(CONFIG, Shape(purchase_heads=2, categories=categories))
    with torch.no_grad():
        for name, weights in net.named_parameters():
            if name.startswith(("heads", "linear", "category")):
                torch.nn.init.normal_(weights, std=0.3)
            elif weights.dim() == 1:
                weights.add_(0.1 * torch.randn_like(weights))
            else:
                weights.mul_(3.0)
    return net.eval()


def sample(n: int = N, seed: int = 0) -> Sample:
    """Random rows, sorted by history length, with labels of both classes."""
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(1, size, (n, 64)) for size in CHANNEL_SIZES.values()], axis=2)
    tokens[np.arange(64) >= np.sort(rng.integers(1, 65, n))[:, None]] = 0
    numbers = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    buys = (rng.random((n, 2)) < 0.4).astype(np.float32)
    churns = (rng.random(n) < 0.5).astype(np.float32)
    return Sample(tokens.astype(np.uint16), numbers, churns, buys, buys[:, 1] * 20.0)


def write_run(folder: Path, trained: EventBert, rows: Sample, categories: tuple[str, ...] = CATEGORIES) -> Path:
    """Write a run folder of this network, as training would leave it behind."""
    head = HeadCalibration(Calibrator(), Calibrator())
    counts = dict.fromkeys(("train", "validation", "recent", "test", "users", "epochs", "best epoch"), 1)
    run = Run(
        settings=msgspec.structs.replace(Settings(), model=CONFIG),
        shape=Shape(purchase_heads=2, categories=len(categories)),
        calibration=Calibration(head, (head, head)),
        categories=categories,
        currency="USD",
        trained_on=("2024-01-01T00:00:00Z", "2024-06-01T00:00:00Z"),
        counts=counts,
        metrics={"event_bert": {"churn.auc": 0.7}},
    )
    save_run(folder, run, trained, rows)
    return folder
