"""DP-SGD: the gradient of a user is bounded, the noise is what ε needs, and nothing else learns from the users."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant

from model_export.data.examples import Examples
from model_export.export.model_card import privacy_words
from model_export.network.event_bert import EventBert, Shape
from model_export.network.loss import Objective
from model_export.settings import Settings, as_toml, read_settings
from model_export.training.dp_sgd import PrivateGradients, example_loss, noise_multiplier
from model_export.training.fit import fit, refit
from model_export.training.task import FitConfig
from stream.errors import ConfigError
from tests.model_export.small import SMALL, changed, data_set, examples, task

PRIVATE = FitConfig(epochs=2, batch_size=32, patience=1, dp_epsilon=4.0, dp_delta=1e-3, category_weight=0.5)
CATEGORIES = np.array([5, 9, 11])
STEADY = msgspec.structs.replace(SMALL, dropout=0.0, categories=3)


def some_examples(n: int = 40, *, users: int | None = None) -> Examples:
    """Examples that all have a next category. With ``users``, each of that many users has several."""
    rows = examples(n, longest=8)
    category = np.random.default_rng(5).choice(CATEGORIES, n).astype(np.uint16)
    user = rows.user if users is None else np.random.default_rng(6).integers(0, users, n)
    return replace(rows, category=category, user=user)


def gradients(config: FitConfig, rows: Examples) -> PrivateGradients:
    objective = Objective(config, rows, CATEGORIES)
    return PrivateGradients(config, rows, objective, epochs=config.epochs, batch_size=config.batch_size)


@pytest.fixture
def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed amount of noise: to ask Opacus takes seconds."""
    monkeypatch.setattr("model_export.training.dp_sgd.noise_multiplier", lambda *_: 0.8)


def network() -> EventBert:
    torch.manual_seed(3)
    made = EventBert(STEADY, Shape(2, 3)).eval()
    with torch.no_grad():
        for p in (made.heads.weight, made.linear.weight):
            p.normal_(std=0.1)
    return made


def outputs(made: EventBert, rows: Examples) -> tuple[torch.Tensor, ...]:
    out: tuple[torch.Tensor, ...] = made(
        torch.from_numpy(rows.tokens.astype(np.int32)), torch.from_numpy(rows.features)
    )
    return out


# -- gradients --------------------------------------------------------------------------------------------


def test_losses_of_single_examples_are_those_of_the_batch() -> None:
    rows, made = some_examples(), network()
    objective = Objective(PRIVATE, rows, CATEGORIES)
    whole = outputs(made, rows)
    of_batch = objective(whole, objective.targets(np.arange(40)))
    each = []
    for i in range(40):
        targets = objective.targets(np.array([i]))
        one = replace(targets, labels=targets.labels[0], value=targets.value[0], category=targets.category[0])
        each.append(example_loss(PRIVATE, objective.weights, tuple(out[i : i + 1] for out in whole), one))
    assert torch.stack(each).mean().item() == pytest.approx(of_batch.item(), rel=1e-5)


@pytest.mark.usefixtures("fixed_noise")
def test_short_gradient_is_kept_and_a_long_one_is_cut_to_the_bound() -> None:
    rows, made = some_examples(), network()
    objective = Objective(PRIVATE, rows, CATEGORIES)
    for i in range(2):
        made.zero_grad()
        objective(outputs(made, rows.take(np.array([i]))), objective.targets(np.array([i]))).backward()
        plain = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
        length = math.sqrt(sum(float(g.square().sum()) for g in plain.values()))
        for clip in (2 * length, length / 7):
            private = gradients(msgspec.structs.replace(PRIVATE, dp_clip=clip), rows)
            cut = private._clipped(made, np.array([i]))
            assert math.sqrt(sum(float(g.square().sum()) for g in cut.values())) <= clip * 1.0001
            factor = min(1.0, clip / length)
            for name, g in plain.items():
                assert torch.allclose(cut[name], factor * g, atol=1e-5), name


@pytest.mark.usefixtures("fixed_noise")
def test_gradients_of_a_batch_are_the_sum_of_its_rows_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, made = some_examples(), network()
    private = gradients(PRIVATE, rows)
    private.noise = 0.0
    alone = [private._clipped(made, np.array([i])) for i in range(10)]
    monkeypatch.setattr("model_export.training.dp_sgd._CHUNK", 4)
    private.backward(made, np.arange(10))
    for name, p in made.named_parameters():
        assert torch.allclose(p.grad * 32, sum(one[name] for one in alone), atol=1e-4), name


@pytest.mark.usefixtures("fixed_noise")
def test_noise_has_the_size_of_multiplier_times_clip_over_the_expected_batch() -> None:
    rows, made = some_examples(), network()
    private = gradients(msgspec.structs.replace(PRIVATE, dp_clip=0.5), rows)
    private.noise = 3.0
    private.backward(made, np.zeros(0, np.int64))
    noise = torch.cat([p.grad.flatten() for name, p in made.named_parameters() if "tables" not in name])
    assert float(noise.std()) == pytest.approx(3.0 * 0.5 / 32, rel=0.1)
    for name, p in made.named_parameters():
        if "tables" in name:
            assert not p.grad[0].any(), "the embedding of padding was changed"


@pytest.mark.usefixtures("fixed_noise")
def test_a_step_draws_one_row_of_a_user_at_most_and_every_row_may_be_drawn() -> None:
    rows = some_examples(200, users=30)
    private = gradients(msgspec.structs.replace(PRIVATE, batch_size=10), rows)
    assert private.steps == 3
    drawn: set[int] = set()
    for _ in range(300):
        for batch in private.batches():
            users = rows.user[batch]
            assert len(set(users.tolist())) == len(users)
            drawn.update(batch.tolist())
    assert drawn == set(range(200))


# -- the budget -------------------------------------------------------------------------------------------


def spent_epsilon(noise: float, delta: float, rate: float, steps: int) -> float:
    """ε that so many steps with this noise spend, by the Rényi accountant."""
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("rate", "steps"), [(0.1, 100), (1.0, 10)])
def test_noise_spends_no_more_than_the_budget_and_not_much_less(rate: float, steps: int) -> None:
    noise = noise_multiplier(2.0, 1e-5, rate, steps)
    assert 1.9 < spent_epsilon(noise, 1e-5, rate, steps) <= 2.0


def test_epsilon_without_sampling_is_that_of_the_gaussian_mechanism() -> None:
    noise, steps, delta = 5.0, 10, 1e-5
    orders = np.concatenate((np.linspace(1.1, 11, 100), np.arange(12, 64)))
    # Rényi divergence of the Gaussian mechanism (Mironov 2017), turned into ε as Balle et al. (2020) do.
    renyi = steps * orders / (2 * noise**2)
    best = (renyi + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)).min()
    assert spent_epsilon(noise, delta, 1.0, steps) == pytest.approx(best, rel=0.01)


def test_noise_is_enough_for_all_steps_that_may_be_run() -> None:
    private = gradients(PRIVATE, some_examples(200))
    assert private.steps == 7
    assert spent_epsilon(private.noise, 1e-3, 32 / 200, 2 * 7) <= 4.0


def test_delta_that_would_let_one_user_be_given_away_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fit.dp_delta is 0.001 with 2,000 users"):
        gradients(PRIVATE, some_examples(2_000))


def test_missing_opacus_raises_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants.utils", None)
    with pytest.raises(ConfigError, match=r"valuestream\[train\]"):
        gradients(PRIVATE, some_examples())


# -- training ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fixed_noise")
def test_private_training_runs_all_epochs_keeps_the_last_and_takes_no_noise_from_the_seed() -> None:
    data = data_set(120, longest=8)
    fitted = fit(task(PRIVATE), data.train, data.validation)
    assert (fitted.epochs, fitted.best_epoch) == (2, 2)
    first, again = (refit(task(PRIVATE), data.recent, 1) for _ in range(2))
    assert not torch.equal(first.heads.weight, again.heads.weight)
    for made in (fitted.network, first):
        assert all(bool(torch.isfinite(p).all()) for p in made.parameters())


@pytest.mark.usefixtures("fixed_noise")
def test_private_training_does_not_begin_at_the_linear_model_of_its_users() -> None:
    data = data_set(120, longest=8)
    begun = refit(task(PRIVATE), data.train, 0)
    assert not begun.linear.weight.any()
    assert not begun.just_now.any()
    assert float(begun.scale.std()) > 0


def test_warm_start_is_refused() -> None:
    data = data_set(120, longest=8)
    warm = EventBert(SMALL, Shape(2, 0))
    with pytest.raises(ConfigError, match="would not be in the budget"):
        fit(task(PRIVATE, warm=warm), data.train, data.validation)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["fit.dp_delta=0.0"], "fit.dp_delta"),
        (["fit.dp_delta=1.0"], "fit.dp_delta"),
        (["fit.dp_clip=0.0"], "fit.dp_clip"),
        (["fit.pretrain_epochs=1"], "fit.pretrain_epochs"),
        (["fit.class_weights=true"], "fit.class_weights"),
        (["teacher.hidden=64"], "teacher"),
        (["fit.dp_epsilon=-1.0"], "fit.dp_epsilon"),
    ],
)
def test_settings_that_would_learn_outside_of_the_budget_are_refused(lines: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_settings(None, ["fit.dp_epsilon=2.0", *lines])


def test_budget_is_read_back_from_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text(as_toml(changed(Settings(), "fit", dp_epsilon=3.0, dp_delta=1e-7, dp_clip=0.5)))
    fitted = read_settings(file).fit
    assert (fitted.dp_epsilon, fitted.dp_delta, fitted.dp_clip) == (3.0, 1e-7, 0.5)


def test_card_of_a_private_model_says_the_budget_and_what_it_does_not_cover() -> None:
    said = privacy_words(changed(Settings(), "fit", dp_epsilon=3.0, dp_delta=1e-7, dp_clip=0.5))
    for words in ("ε = 3", "δ = 1e-07", "cut to 0.5", "**Not covered**"):
        assert words in said
    assert privacy_words(Settings()) == ""
