"""Pretraining: hidden events are hidden, and learned from the rest of their history."""

from __future__ import annotations

import numpy as np
import torch

from model_export.network.event_encoder import EventEncoder
from model_export.training.pretrain import pretrain
from tests.model_export.small import CATEGORY, STEADY, TYPE, examples


def patterned(n: int, seed: int) -> np.ndarray:
    """Histories with types and prices that go round in a circle, so that a hidden event can be told from the rest."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((n, 64, 7), np.uint16)
    places = rng.integers(0, 4, (n, 1)) + np.arange(16)
    tokens[:, :16, TYPE] = 2 + places % 4
    tokens[:, :16, 3] = 5 + places % 4
    tokens[:, :16, 4:] = 3
    return tokens


def test_pretraining_loss_falls_on_patterned_histories() -> None:
    losses = []
    for n in (1, 200):
        torch.manual_seed(0)
        losses.append(pretrain(EventEncoder(STEADY), (patterned(32, seed) for seed in range(n)), 2e-2))
    # Knowing only how often each type and price occurs gives a loss of 2 ln 4 = 2.8 nats.
    assert losses[0] > 4
    assert losses[1] < 1


def test_hidden_events_are_hidden_and_only_those() -> None:
    from model_export.training.pretrain import _masked

    tokens = torch.from_numpy(examples(6, longest=8).tokens.astype(np.int64))
    hidden = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    hidden[:, 0] = True
    masked = _masked(tokens, hidden)
    assert torch.equal(masked[:, 1:], tokens[:, 1:])
    assert (masked[:, 0, TYPE] == 15).all()
    assert not masked[:, 0, CATEGORY : TYPE + 4].any()
    assert torch.equal(masked[:, 0, 4:], tokens[:, 0, 4:])
