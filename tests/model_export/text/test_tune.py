"""Tuning: each mode learns, the same seed gives the same weights, and early stopping stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from model_export.text.encoder import TextBert
from model_export.text.labelled import Split
from model_export.text.sentiment import text_metrics
from model_export.text.settings import Mode
from tests.model_export.text.tuning import fitted

MODES = get_args(Mode)


@pytest.fixture(scope="module", params=MODES)
def by_mode(request: pytest.FixtureRequest, parts: Split, checkpoint: Path) -> tuple[str, Any]:
    return request.param, fitted(parts, checkpoint, request.param)


def test_every_mode_learns_the_words(by_mode: tuple[str, Any], parts: Split) -> None:
    assert text_metrics(by_mode[1].probabilities, parts.test.labels)["macro_f1"] > 0.75


def test_same_seed_gives_the_same_weights_and_another_seed_others(
    by_mode: tuple[str, Any], parts: Split, checkpoint: Path
) -> None:
    mode, first = by_mode
    again, other = fitted(parts, checkpoint, mode), fitted(parts, checkpoint, mode, seed=8)
    weights, repeated, different = (f.classifier.state_dict() for f in (first, again, other))
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)
    assert not torch.equal(weights["head.1.weight"], different["head.1.weight"])


def test_mode_trains_only_its_weights_and_leaves_a_plain_bert(by_mode: tuple[str, Any], encoder: TextBert) -> None:
    mode, tuned = by_mode
    before, after = encoder.bert.state_dict(), tuned.classifier.encoder.bert.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if mode == "frozen":
        assert not changed
    elif mode == "lora":
        assert changed and all(name.endswith("weight") and "LayerNorm" not in name for name in changed)
        assert "embeddings.word_embeddings.weight" not in changed
    else:
        assert "embeddings.word_embeddings.weight" in changed


def test_training_stops_when_the_validation_loss_stops_falling(parts: Split, checkpoint: Path) -> None:
    # With such a large learning rate, no epoch is better than the start, or the losses jump up and down.
    tuned = fitted(parts, checkpoint, "frozen", learning_rate=500.0, patience=2, epochs=50).tuned
    assert len(tuned.losses) - 1 == tuned.best_epoch + 2 < 50


def test_class_weights_find_more_of_a_rare_class(parts: Split, checkpoint: Path) -> None:
    positive = np.flatnonzero(parts.train.labels == 2)
    rare = parts.train.take(np.setdiff1d(np.arange(len(parts.train)), positive[8:]))
    few = Split(rare, parts.validation, parts.test, 0)
    called = [
        (fitted(few, checkpoint, "frozen", class_weights=weights, epochs=8).probabilities.argmax(axis=1) == 2).sum()
        for weights in (False, True)
    ]
    assert called[0] < called[1]
