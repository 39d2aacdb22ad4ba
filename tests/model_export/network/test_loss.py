"""Loss: the losses of the heads are the textbook's, weighted as the settings say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_export.network.loss import LossConfig, Objective
from stream.score.calibration import sigmoid
from tests.model_export.small import examples


def outputs_of(n: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(size, generator=generator) for size in ((n,), (n, 2), (n, 2)))


def cross_entropy(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    p = sigmoid(logits.astype(np.float64))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


def test_class_weights_make_the_positives_of_a_head_count_as_much_as_its_negatives() -> None:
    rows = examples(500, longest=8)
    outputs, labels = outputs_of(500), np.column_stack((rows.churn, rows.purchase))
    logits = np.column_stack([outputs[0][:, None], outputs[1]])
    found = {}
    for weighted in (False, True):
        config = LossConfig(churn_weight=1, purchase_weight=0.5, value_weight=0, class_weights=weighted)
        objective = Objective(config, rows, np.zeros(0, np.int64))
        found[weighted] = float(objective(outputs, objective.targets(np.arange(500))))
    rates = labels.mean(axis=0)
    losses = cross_entropy(logits, labels)
    head = np.array([1.0, 0.5, 0.5])
    assert found[False] == pytest.approx((losses.mean(axis=0) * head).sum(), rel=1e-5)
    # A positive weighs as much as the odds against it, so that positives and negatives have the same sum of weights.
    weights = np.where(labels > 0, (1 - rates) / rates, 1.0)
    assert found[True] == pytest.approx(((weights * losses).mean(axis=0) * head).sum(), rel=1e-5)
    assert found[True] != pytest.approx(found[False], rel=1e-2)


def test_distillation_adds_the_cross_entropy_to_the_teachers_probabilities() -> None:
    rows, outputs = examples(300, longest=8), outputs_of(300)
    soft = np.random.default_rng(1).random((300, 3)).astype(np.float32)
    config = LossConfig(purchase_weight=0.5, distill_weight=3.0)
    none = np.zeros(0, np.int64)
    plain, taught = Objective(config, rows, none), Objective(config, rows, none, soft)
    part = np.arange(50, 120)
    added = float(taught(outputs_of(70), taught.targets(part)) - plain(outputs_of(70), plain.targets(part)))
    first = outputs_of(70)
    losses = cross_entropy(np.column_stack([first[0][:, None], first[1]]), soft[part])
    assert added == pytest.approx(3.0 * (losses.mean(axis=0) * [1.0, 0.5, 0.5]).sum(), rel=1e-4)
    assert outputs[0].shape == (300,)


def test_value_loss_is_the_log_normal_likelihood_of_buyers_as_a_mean_over_all() -> None:
    rows, outputs = examples(300, longest=8), outputs_of(300)
    config = LossConfig(churn_weight=0, purchase_weight=0, value_weight=2.0)
    objective = Objective(config, rows, np.zeros(0, np.int64))
    mu, log_sigma = outputs[2].numpy().T
    bought = rows.value > 0
    error = (np.log(rows.value[bought]) - mu[bought]) / np.exp(log_sigma[bought])
    expected = 2.0 * (0.5 * error**2 + log_sigma[bought]).sum() / 300
    assert float(objective(outputs, objective.targets(np.arange(300)))) == pytest.approx(expected, rel=1e-4)
