"""Retrain: a stale champion is beaten, a good one stays, and a crash does no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from model_export.cli import cli
from model_export.network.event_bert import EventBert, Shape
from model_export.retraining import registry as registry_module
from model_export.retraining import retrain as retrain_module
from model_export.retraining.registry import Registry
from model_export.settings import as_toml
from model_export.training import model as model_module
from stream.errors import ConfigError
from stream.score.scorer import Scorer
from stream.score.signature import verifier
from tests.model_export.retraining.conftest import Shop
from tests.model_export.small import SHOP, changed


def test_first_model_is_promoted_and_serves(begun: Shop) -> None:
    assert (begun.result.promoted, begun.result.met, begun.result.comparison) == (True, None, None)
    assert begun.current == begun.result.champion
    assert Scorer(begun.folder / "current").manifest.version == begun.current.partition("-")[2]
    assert begun.history() == [begun.result]


def test_stale_champion_is_beaten_by_a_challenger_trained_on_from_it(begun: Shop, retrained: Shop) -> None:
    result = retrained.result
    assert result.promoted and result.warm, result.why
    assert result.met == begun.current
    assert retrained.current == result.champion != begun.current
    assert result.comparison is not None
    low, value, _ = result.comparison.improvement
    assert low is not None and value is not None
    assert low > 0 and value >= result.margin
    Scorer(retrained.folder / "current")
    Scorer(retrained.folder / begun.current)  # kept, so that one can go back to it
    assert retrained.history() == [begun.result, result]


def test_champion_is_signed_if_a_key_is_given(begun: Shop) -> None:
    Scorer(begun.folder / "current", verify=verifier(begun.folder.parent / "public"))


def test_same_data_keeps_the_champion_without_training(later: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrain_module, "_challenger", None)
    result = later.retrain()
    assert not result.promoted and "no labels newer" in result.why
    assert later.current == result.champion == result.met
    assert [r.promoted for r in later.history()] == [True, True, False]


@pytest.mark.usefixtures("instant_challenger")
def test_challenger_that_misses_the_margin_leaves_only_its_record(shop: Shop) -> None:
    before, folders = shop.current, sorted(p.name for p in shop.folder.iterdir())
    result = shop.retrain(changed(shop.late, "retrain", margin=5.0))
    assert not result.promoted and "less than the margin of 5" in result.why
    assert shop.current == before
    assert sorted(p.name for p in shop.folder.iterdir()) == folders
    assert [p.name for p in (shop.folder / "runs").iterdir()] == [before]
    assert shop.history()[-1] == result


def test_champion_that_has_seen_the_test_labels_is_refused(later: Shop) -> None:
    before = later.current
    with pytest.raises(ConfigError, match="would be tested on what it was trained on; give data that ends later"):
        later.retrain(later.early)
    assert later.current == before
    assert len(later.history()) == 2


def test_no_network_starts_from_one_that_saw_the_labels_it_is_measured_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new validated network starts from the champion's validated network, not from its serving network."""
    champion = Registry(shop.folder).champion()
    assert champion is not None
    starts: dict[str, EventBert | None] = {}
    fit = model_module.fit

    def spied_fit(task: Any, *args: Any) -> Any:
        starts["fit"] = task.warm
        return fit(task, *args)

    def spied_refit(task: Any, *_: Any) -> Any:
        starts["refit"] = task.warm
        raise InterruptedError("both starts are recorded")

    monkeypatch.setattr(model_module, "fit", spied_fit)
    monkeypatch.setattr(model_module, "refit", spied_refit)
    with pytest.raises(InterruptedError):
        shop.retrain(changed(shop.late, "retrain", epochs=1))
    for name, expected, other in (
        ("fit", champion.validated, champion.network),
        ("refit", champion.network, champion.validated),
    ):
        found = starts[name]
        assert found is not None
        assert torch.equal(found.linear.weight, expected.linear.weight)
        assert not torch.equal(found.linear.weight, other.linear.weight)


@pytest.mark.parametrize(
    ("table", "values", "named"),
    [("labels", {"churn_days": 6}, "labels"), ("data", {"currency": "EUR"}, "currency")],
)
def test_other_labels_or_currency_are_refused_before_data_is_read(
    shop: Shop, table: str, values: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_module, "prepare", None)
    with pytest.raises(ConfigError, match=f"{named} of the champion .* cannot be compared"):
        shop.retrain(changed(shop.late, table, **values))


def test_other_network_is_trained_afresh_and_the_reason_is_printed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_model(*_: Any, **__: Any) -> Any:
        raise InterruptedError("a fresh training begins")

    monkeypatch.setattr(retrain_module, "train_model", train_model)
    console = Console(record=True, width=200, quiet=False, file=(shop.folder / "log").open("w"))
    with pytest.raises(InterruptedError):
        retrain_module.retrain(changed(shop.late, "model", hidden=16), shop.folder, console)
    assert "model.hidden is 8 in the champion and 16 in the settings" in console.export_text()


def test_category_classes_keep_their_logits_in_any_order() -> None:
    torch.manual_seed(0)
    network = EventBert(SHOP.model, Shape(purchase_heads=2, categories=3)).eval()
    other = retrain_module._with_classes(network, ("a", "b", "c"), ("c", "new", "a")).eval()
    tokens, features = torch.ones((5, 8, 7), dtype=torch.int32), torch.randn(5, network.mean.shape[0])
    before, after = network(tokens, features), other(tokens, features)
    assert torch.equal(after[3][:, [0, 2]], before[3][:, [2, 0]])
    assert not after[3][:, 1].any()
    assert all(torch.equal(x, y) for x, y in zip(before[:3], after[:3], strict=True))


@pytest.mark.parametrize(("names", "wanted"), [((), ("a", "b")), (("a", "b"), ())])
def test_category_head_may_be_added_or_removed(names: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    network = EventBert(SHOP.model, Shape(purchase_heads=2, categories=len(names)))
    assert retrain_module._with_classes(network, names, wanted).shape.categories == len(wanted)


def crash(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("instant_challenger")
@pytest.mark.parametrize(
    ("where", "what"),
    [
        (retrain_module, "compare"),
        (registry_module, "save_run"),
        (registry_module, "save_file"),
        (registry_module, "export"),
        (Registry, "promote"),
    ],
)
def test_crash_at_any_step_keeps_the_champion_and_the_next_retraining_succeeds(
    shop: Shop, where: Any, what: str
) -> None:
    before = shop.current
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, what, crash)
        with pytest.raises(KeyboardInterrupt):
            shop.retrain()
    assert shop.current == before
    Scorer(shop.folder / "current")
    assert shop.retrain().promoted
    assert shop.current != before
    Scorer(shop.folder / "current")


def test_command_says_kept_and_succeeds_when_the_champion_stays(later: Shop, tmp_path: Path) -> None:
    settings = tmp_path / "shop.toml"
    settings.write_text(as_toml(later.late))
    result = CliRunner().invoke(cli, ["retrain", str(settings), "--models", str(later.folder)])
    assert result.exit_code == 0, result.output
    assert f"kept {later.current}" in result.output.replace("\n", " ")
