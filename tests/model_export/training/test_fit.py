"""Fitting: the same seed gives the same weights, interrupted or not, and what is in the examples is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from rich.progress import Progress, TaskID
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from model_export.data.examples import Examples
from model_export.network.event_bert import EventBert
from model_export.network.event_encoder import EventEncoder
from model_export.network.initial_weights import new_network
from model_export.network.loss import LossConfig, Objective
from model_export.run_folder import predict
from model_export.text.products import BUCKETS, ProductTable
from model_export.training.fit import fit, refit
from model_export.training.pretrain import pretrain
from model_export.training.task import FitConfig, frequent_categories
from stream.score.calibration import sigmoid
from tests.model_export.small import CATEGORY, SMALL, TYPE, data_set, examples, task

QUICK = FitConfig(epochs=3, batch_size=64, patience=3)
#: Without dropout, for what must be learned quickly.
STEADY = msgspec.structs.replace(SMALL, dropout=0.0)


def same(one: EventBert, other: EventBert) -> bool:
    """Whether all weights are equal to the bit."""
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


class Interrupted(Progress):
    """A user who presses Ctrl-C when the bar ``at`` appears."""

    def __init__(self, at: str) -> None:
        super().__init__(disable=True)
        self._at = at

    def add_task(self, description: str, *args: Any, **others: Any) -> TaskID:
        if description == self._at:
            raise KeyboardInterrupt
        return super().add_task(description, *args, **others)


# -- reproducible -----------------------------------------------------------------------------------------


def test_same_seed_gives_same_weights_and_another_seed_others() -> None:
    data = data_set(200, longest=8)
    config = msgspec.structs.replace(QUICK, epochs=1, pretrain_epochs=1)
    first, again, other = (fit(task(config, seed), data.train, data.validation).network for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("epoch", [2, 3])
def test_interrupted_training_goes_on_to_the_same_weights(epoch: int, tmp_path: Path) -> None:
    data = data_set(200, longest=8)
    whole = fit(task(QUICK), data.train, data.validation)
    kept = tmp_path / "checkpoints" / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(task(QUICK, checkpoint=kept, progress=Interrupted(f"epoch {epoch}")), data.train, data.validation)
    assert kept.is_file()
    # The epochs that are done are not done again.
    resumed = fit(task(QUICK, checkpoint=kept, progress=Interrupted("epoch 1")), data.train, data.validation)
    assert same(whole.network, resumed.network)
    assert (whole.epochs, whole.best_epoch) == (resumed.epochs, resumed.best_epoch)


def test_interrupted_refit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    rows, kept = examples(200, longest=8), tmp_path / "refit.pt"
    whole = refit(task(QUICK), rows, 3)
    with pytest.raises(KeyboardInterrupt):
        refit(task(QUICK, checkpoint=kept, progress=Interrupted("epoch 3")), rows, 3)
    assert same(whole, refit(task(QUICK, checkpoint=kept, progress=Interrupted("epoch 2")), rows, 3))


def test_refit_for_the_best_number_of_epochs_gives_the_weights_that_were_best() -> None:
    data = data_set(400, longest=8)
    config = msgspec.structs.replace(QUICK, learning_rate=1e-2)
    fitted = fit(task(config), data.train, data.validation)
    assert fitted.best_epoch > 0
    assert same(fitted.network, refit(task(config), data.train, fitted.best_epoch))
    assert not same(fitted.network, refit(task(config), data.recent, fitted.best_epoch))


def test_refit_for_no_epoch_is_the_linear_start_and_scores_as_logistic_regression_does() -> None:
    rows = examples(400, longest=8)
    rows = replace(rows, churn=(rows.features[:, 0] + rows.features[:, 1] > 0.3).astype(np.float32))
    start = refit(task(QUICK), rows, 0)
    assert same(start, refit(task(QUICK), rows, 0))
    x = rows.features.astype(np.float64)
    x = np.clip(x, *np.quantile(x, (0.001, 0.999), axis=0))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    linear = LogisticRegression(C=0.1, max_iter=500).fit(z, rows.churn).decision_function(z)
    assert predict(start, rows.tokens, rows.features).churn == pytest.approx(linear, abs=1e-3)


def test_training_stops_after_patience_epochs_without_a_better_loss() -> None:
    data = data_set(200, longest=8)
    noise = replace(data.train, churn=np.random.default_rng(0).integers(0, 2, 200).astype(np.float32))
    config = FitConfig(epochs=12, batch_size=64, patience=2, learning_rate=2e-2)
    fitted = fit(task(config), noise, data.validation)
    assert fitted.epochs == fitted.best_epoch + 2 < 12


def test_warm_start_goes_on_from_the_given_weights_and_leaves_them_as_they_are() -> None:
    rows = examples(200, longest=8)
    warm = refit(task(QUICK), rows, 1)
    before = {name: weights.clone() for name, weights in warm.state_dict().items()}
    assert same(warm, refit(task(QUICK, warm=warm), rows, 0))
    assert not same(warm, refit(task(QUICK, warm=warm), rows, 1))
    assert all(torch.equal(before[name], weights) for name, weights in warm.state_dict().items())


# -- what is learned --------------------------------------------------------------------------------------


def test_network_learns_what_only_the_order_of_events_tells() -> None:
    data = data_set(2_000, longest=8)
    config = FitConfig(epochs=8, batch_size=64, learning_rate=3e-3, patience=8)
    fitted = fit(task(config), data.train, data.validation)
    test = data.test
    linear = LogisticRegression(max_iter=500).fit(data.train.features, data.train.churn)
    assert roc_auc_score(test.churn, linear.decision_function(test.features)) < 0.6
    assert roc_auc_score(test.churn, predict(fitted.network, test.tokens, test.features).churn) > 0.9
    assert fitted.best_epoch > 0


def with_next_category(n: int, seed: int) -> Examples:
    """Rows of four categories; the next is the one after that of the last event, in one round."""
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


def test_frequent_categories_are_the_most_frequent_that_come_next_and_never_none() -> None:
    rows = replace(examples(10), category=np.array([0, 0, 0, 0, 9, 9, 9, 4, 4, 7], np.uint16))
    assert frequent_categories(rows, 2).tolist() == [9, 4]
    assert frequent_categories(rows, 9).tolist() == [9, 4, 7]


# -- the loss ---------------------------------------------------------------------------------------------


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
    # Each positive weighs as the odds against it, so that positives and negatives have the same sum of weights.
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


def test_value_loss_is_the_log_normal_likelihood_of_the_buyers_over_all() -> None:
    rows, outputs = examples(300, longest=8), outputs_of(300)
    config = LossConfig(churn_weight=0, purchase_weight=0, value_weight=2.0)
    objective = Objective(config, rows, np.zeros(0, np.int64))
    mu, log_sigma = outputs[2].numpy().T
    bought = rows.value > 0
    error = (np.log(rows.value[bought]) - mu[bought]) / np.exp(log_sigma[bought])
    expected = 2.0 * (0.5 * error**2 + log_sigma[bought]).sum() / 300
    assert float(objective(outputs, objective.targets(np.arange(300)))) == pytest.approx(expected, rel=1e-4)


def test_student_of_a_teacher_moves_from_coin_flips_to_the_teachers_probabilities() -> None:
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


# -- pretraining ------------------------------------------------------------------------------------------


def patterned(n: int, seed: int) -> np.ndarray:
    """Histories whose types and prices go round in a circle, begun anywhere: what is hidden can be told."""
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
    # Who knows how often each type and price is, and not which one is next, has a loss of 2 ln 4 = 2.8 nats.
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


# -- product texts ----------------------------------------------------------------------------------------


def products(width: int = 4) -> ProductTable:
    """Item 100 is row 1, category 50 is row 2, all else is unknown."""
    items, categories = np.zeros(BUCKETS, np.int32), np.zeros(BUCKETS, np.int32)
    items[100], categories[50] = 1, 2
    vectors = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    vectors[0] = 0
    return ProductTable(items, categories, vectors)


def test_unseen_item_is_read_as_its_category_and_a_known_one_by_its_own_text() -> None:
    rows = examples(40, longest=4)
    network = new_network(rows, SMALL, task(QUICK, products=products()).shape(2), products())
    assert network.shape.product_rows == 3
    with torch.no_grad():
        torch.nn.init.normal_(network.heads.weight, std=1.0)
        assert network.encoder.products is not None
        network.encoder.products.read.weight.mul_(50)
        # What an item is beside its text has a table of its own, at which this test does not look.
        network.encoder.tables[2].weight.zero_()

    def churn(item: int, category: int) -> np.ndarray:
        tokens = rows.tokens.copy()
        tokens[:, 0, CATEGORY], tokens[:, 0, CATEGORY + 1] = category, item
        return predict(network, tokens, rows.features).churn

    assert np.array_equal(churn(7_000, 50), churn(8_000, 50))
    assert (churn(100, 50) != churn(7_000, 50)).all()
    # Where even the category is unknown, nothing is.
    assert (churn(7_000, 51) != churn(7_000, 50)).all()


def test_product_texts_stay_as_they_are_while_the_network_learns_to_read_them() -> None:
    rows = examples(200, longest=8)
    table = products()
    start, network = (refit(task(QUICK, products=table), rows, epochs) for epochs in (0, 1))
    assert network.encoder.products is not None
    assert start.encoder.products is not None
    assert np.array_equal(network.encoder.products.vectors.numpy(), table.vectors)
    assert not torch.equal(network.encoder.products.read.weight, start.encoder.products.read.weight)
