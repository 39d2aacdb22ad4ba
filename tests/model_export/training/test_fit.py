"""Fit: the same seed gives the same weights, and what is in the examples is learned."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from model_export.data.examples import Examples
from model_export.run_folder import predict
from model_export.training.fit import fit, refit
from model_export.training.task import FitConfig, frequent_categories
from stream.score.calibration import sigmoid
from tests.model_export.small import CATEGORY, QUICK, STEADY, TYPE, data_set, examples, same_weights, task


def test_same_seed_gives_same_weights_and_another_seed_others() -> None:
    data = data_set(200, longest=8)
    config = msgspec.structs.replace(QUICK, epochs=1, pretrain_epochs=1)
    first, again, other = (fit(task(config, seed), data.train, data.validation).network for seed in (1, 1, 2))
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_refit_for_the_best_number_of_epochs_gives_the_weights_that_were_best() -> None:
    data = data_set(400, longest=8)
    config = msgspec.structs.replace(QUICK, learning_rate=1e-2)
    fitted = fit(task(config), data.train, data.validation)
    assert fitted.best_epoch > 0
    assert same_weights(fitted.network, refit(task(config), data.train, fitted.best_epoch))
    assert not same_weights(fitted.network, refit(task(config), data.recent, fitted.best_epoch))


def test_training_stops_after_patience_epochs_without_a_better_loss() -> None:
    data = data_set(200, longest=8)
    noise = replace(data.train, churn=np.random.default_rng(0).integers(0, 2, 200).astype(np.float32))
    config = FitConfig(epochs=12, batch_size=64, patience=2, learning_rate=2e-2)
    fitted = fit(task(config), noise, data.validation)
    assert fitted.epochs == fitted.best_epoch + 2 < 12


def test_network_learns_what_only_the_last_event_tells() -> None:
    data = data_set(2_000, longest=8)
    config = FitConfig(epochs=8, batch_size=64, learning_rate=3e-3, patience=8)
    fitted = fit(task(config), data.train, data.validation)
    test = data.test
    linear = LogisticRegression(max_iter=500).fit(data.train.features, data.train.churn)
    assert roc_auc_score(test.churn, linear.decision_function(test.features)) < 0.6
    assert roc_auc_score(test.churn, predict(fitted.network, test.tokens, test.features).churn) > 0.9
    assert fitted.best_epoch > 0


def with_next_category(n: int, seed: int) -> Examples:
    """Rows of four categories in a circle. The next category is the one after that of the last event."""
    rows = examples(n, seed, longest=8)
    rng = np.random.default_rng(seed)
    tokens = rows.tokens.copy()
    there = tokens[:, :, TYPE] > 0
    tokens[:, :, CATEGORY] = np.where(there, rng.integers(11, 15, there.shape), 0)
    last = tokens[np.arange(n), there.sum(axis=1) - 1, CATEGORY].astype(np.int64)
    return replace(rows, tokens=tokens, category=(11 + (last - 10) % 4).astype(np.uint16))


def test_next_category_head_learns_a_category_that_follows_another() -> None:
    train, test = with_next_category(1_000, 1), with_next_category(400, 2)
    categories = frequent_categories(train, 4)
    assert sorted(categories.tolist()) == [11, 12, 13, 14]
    config = FitConfig(
        epochs=8, batch_size=64, learning_rate=1e-2, category_weight=5.0, churn_weight=0.0, purchase_weight=0.0
    )
    network = refit(task(config, categories=categories, model=STEADY), train, 8)
    top = categories[predict(network, test.tokens, test.features).category.argmax(axis=1)]
    assert (top == test.category).mean() > 0.9


def test_student_moves_from_coin_flips_to_the_probabilities_of_its_teacher() -> None:
    rows = examples(1_000, longest=8)
    teacher = sigmoid(2 * rows.features[:, :3].astype(np.float64)).astype(np.float32)
    coins = np.random.default_rng(5).integers(0, 2, (1_000, 3)).astype(np.float32)
    rows = replace(rows, churn=coins[:, 0], purchase=coins[:, 1:], value=np.zeros(1_000))
    config = FitConfig(epochs=6, batch_size=64, learning_rate=2e-2, distill_weight=20.0)
    start, student = refit(task(config), rows, 0), refit(task(config), rows, 6, teacher)
    gaps = []
    for network in (start, student):
        raw = predict(network, rows.tokens, rows.features)
        p = sigmoid(np.column_stack((raw.churn, raw.purchase)).astype(np.float64))
        gaps.append(float(np.abs(p - teacher).mean()))
    assert gaps[0] > 0.25
    assert gaps[1] < 0.08
