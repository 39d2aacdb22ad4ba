"""Retraining: a stale champion is beaten, a good one kept, none is tested on what it saw, and a crash harms nobody."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from rich.console import Console

from model_export.cli import cli
from model_export.network.event_bert import EventBert, Shape
from model_export.retraining import registry as registry_module
from model_export.retraining import retrain as retrain_module
from model_export.retraining.challenge import Comparison, decide
from model_export.retraining.registry import VERSIONS_KEPT, Champion, Registry
from model_export.retraining.retrain import Retraining
from model_export.settings import Settings, as_toml
from model_export.training import model as model_module
from stream.contract.manifest import Variant
from stream.datasets.market import Habits, Market
from stream.errors import ConfigError
from stream.score.scorer import Scorer
from stream.score.signature import verifier
from tests.model_export.small import SHOP, changed

START = datetime(2024, 1, 1, tzinfo=UTC)
USERS, DAYS = 120, 60
#: One number format is enough to tell that a folder serves, and made in a tenth of the time.
FP32: tuple[Variant, ...] = ("fp32",)
VISITS = Habits(search=0.0, views_mean=1.0, cart=0.4)
#: After the change shoppers leave four times as fast, and order nearly all that they take.
RUSH = Habits(search=0.0, views_mean=1.0, cart=0.4, conversion_a=8.0, conversion_b=1.0, hazard_beta_days=15.0)


def write_events(path: Path, days: int) -> Path:
    """A market that is another one from day ``DAYS`` on."""
    change, end = START + timedelta(days=DAYS), START + timedelta(days=days)
    events = [*Market(USERS, START, 3, habits=VISITS).events(min(change, end))]
    if end > change:
        events += Market(USERS, change, 4, habits=RUSH).events(end)
    path.write_bytes(b"\n".join(event.encode() for event in events) + b"\n")
    return path


@dataclass(frozen=True)
class Shop:
    """A registry folder, what its last retraining came to, and settings for the first days and for all of them."""

    folder: Path
    result: Retraining
    early: Settings
    late: Settings

    @property
    def current(self) -> str:
        return str((self.folder / "current").readlink())

    def copied(self, folder: Path) -> Shop:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Shop(folder, self.result, self.early, self.late)

    def retrain(self, settings: Settings | None = None) -> Retraining:
        return retrain_module.retrain(settings or self.late, self.folder, Console(quiet=True), variants=FP32)

    def history(self) -> list[Retraining]:
        paths = sorted((self.folder / "history").iterdir())
        return [msgspec.json.decode(path.read_bytes(), type=Retraining) for path in paths]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A first champion, of the days before the change."""
    root = tmp_path_factory.mktemp("shop")
    early, late = (
        changed(SHOP, "data", source=str(write_events(root / f"{days}.jsonl", days))) for days in (DAYS, 2 * DAYS)
    )
    key = Ed25519PrivateKey.generate()
    (root / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (root / "public").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    result = retrain_module.retrain(early, root / "models", Console(quiet=True), variants=FP32, sign_key=root / "key")
    return Shop(root / "models", result, early, late)


@pytest.fixture(scope="module")
def gone_on(begun: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The same after a retraining on all days."""
    shop = begun.copied(tmp_path_factory.mktemp("later") / "models")
    return Shop(shop.folder, shop.retrain(), shop.early, shop.late)


@pytest.fixture
def shop(begun: Shop, tmp_path: Path) -> Shop:
    return begun.copied(tmp_path / "models")


@pytest.fixture
def later(gone_on: Shop, tmp_path: Path) -> Shop:
    return gone_on.copied(tmp_path / "models")


@pytest.fixture
def at_once(gone_on: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The challenger of the second retraining, without training it again."""
    champion = Registry(gone_on.folder).champion()
    assert champion is not None

    def challenger(settings: Settings, _: Champion | None, examples: Any, __: Console) -> Any:
        categories = retrain_module.frequent_categories(examples.train, settings.model.categories)
        network, validated, run = champion.network, champion.validated, champion.run
        return retrain_module.Model(network, validated, run.calibration, categories, 2, 2), True

    monkeypatch.setattr(retrain_module, "_challenger", challenger)


# What comes of it ------------------------------------------------------------------------------------


def test_first_model_is_promoted_and_serves(begun: Shop) -> None:
    assert (begun.result.promoted, begun.result.met, begun.result.comparison) == (True, None, None)
    assert begun.current == begun.result.champion
    assert Scorer(begun.folder / "current").manifest.version == begun.current.partition("-")[2]
    assert begun.history() == [begun.result]


def test_stale_champion_is_beaten_by_what_went_on_from_it(begun: Shop, gone_on: Shop) -> None:
    result = gone_on.result
    assert result.promoted and result.warm, result.why
    assert result.met == begun.current
    assert gone_on.current == result.champion != begun.current
    assert result.comparison is not None
    low, value, _ = result.comparison.improvement
    assert low is not None and value is not None
    assert low > 0 and value >= result.margin
    Scorer(gone_on.folder / "current")
    Scorer(gone_on.folder / begun.current)  # kept to go back to
    assert gone_on.history() == [begun.result, result]


def test_improvement_is_the_mean_difference_of_the_heads_log_loss(gone_on: Shop) -> None:
    comparison = gone_on.result.comparison
    assert comparison is not None
    old, new = (
        np.mean([head["log_loss"][1] for head in comparison.metrics[name].values()])
        for name in ("champion", "challenger")
    )
    assert comparison.improvement[1] == pytest.approx(old - new, abs=1e-5)


def test_champion_is_signed_where_a_key_is_given(begun: Shop) -> None:
    Scorer(begun.folder / "current", verify=verifier(begun.folder.parent / "public"))


def test_same_data_again_keeps_the_champion_without_training(later: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrain_module, "_challenger", None)
    result = later.retrain()
    assert not result.promoted and "no labels newer" in result.why
    assert later.current == result.champion == result.met
    assert [r.promoted for r in later.history()] == [True, True, False]


@pytest.mark.usefixtures("at_once")
def test_challenger_that_misses_the_margin_leaves_no_trace_but_the_record(shop: Shop) -> None:
    before, folders = shop.current, sorted(p.name for p in shop.folder.iterdir())
    result = shop.retrain(changed(shop.late, "retrain", margin=5.0))
    assert not result.promoted and "less than the margin of 5" in result.why
    assert shop.current == before
    assert sorted(p.name for p in shop.folder.iterdir()) == folders
    assert [p.name for p in (shop.folder / "runs").iterdir()] == [before]
    assert shop.history()[-1] == result


@pytest.mark.parametrize(
    ("improvement", "promoted", "why"),
    [
        ((0.01, 0.02, 0.03), True, "at least the margin"),
        ((0.01, 0.02, 0.03), True, "more than chance"),
        ((-0.01, 0.02, 0.05), False, "chance may explain it"),
        ((0.0001, 0.0002, 0.0003), False, "less than the margin"),
        ((-0.03, -0.02, -0.01), False, "less than the margin"),
        ((None, None, None), False, "cannot be measured"),
    ],
)
def test_promotion_takes_the_margin_and_an_interval_above_zero(improvement: Any, promoted: bool, why: str) -> None:
    found = decide(Comparison({}, improvement, 100, 50), 0.001)
    assert found[0] is promoted
    assert why in found[1]


# What may not be compared ----------------------------------------------------------------------------


def test_champion_that_has_seen_the_test_labels_is_refused(later: Shop) -> None:
    before = later.current
    with pytest.raises(ConfigError, match="would be tested on what it was trained on; give data that ends later"):
        later.retrain(later.early)
    assert later.current == before
    assert len(later.history()) == 2


def test_no_network_goes_on_from_one_that_saw_the_labels_it_is_judged_by(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one to be validated starts where the champion's validated one ended, not where the serving one did."""
    champion = Registry(shop.folder).champion()
    assert champion is not None
    starts: dict[str, EventBert | None] = {}
    fit = model_module.fit

    def spied_fit(task: Any, *args: Any) -> Any:
        starts["fit"] = task.warm
        return fit(task, *args)

    def spied_refit(task: Any, *_: Any) -> Any:
        starts["refit"] = task.warm
        raise InterruptedError("all is seen")

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
def test_other_labels_or_currency_are_refused_before_anything_is_read(
    shop: Shop, table: str, values: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_module, "prepare", None)
    with pytest.raises(ConfigError, match=f"{named} of the champion .* cannot be compared"):
        shop.retrain(changed(shop.late, table, **values))


def test_other_network_is_trained_afresh_and_said_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_model(*_: Any, **__: Any) -> Any:
        raise InterruptedError("a fresh training begins")

    monkeypatch.setattr(retrain_module, "train_model", train_model)
    console = Console(record=True, width=200, quiet=False, file=(shop.folder / "log").open("w"))
    with pytest.raises(InterruptedError):
        retrain_module.retrain(changed(shop.late, "model", hidden=16), shop.folder, console)
    assert "model.hidden is 8 in the champion and 16 in the settings" in console.export_text()


def test_category_classes_keep_their_logits_wherever_they_stand() -> None:
    torch.manual_seed(0)
    network = EventBert(SHOP.model, Shape(purchase_heads=2, categories=3)).eval()
    other = retrain_module._with_classes(network, ("a", "b", "c"), ("c", "new", "a")).eval()
    tokens, features = torch.ones((5, 8, 7), dtype=torch.int32), torch.randn(5, network.mean.shape[0])
    before, after = network(tokens, features), other(tokens, features)
    assert torch.equal(after[3][:, [0, 2]], before[3][:, [2, 0]])
    assert not after[3][:, 1].any()
    assert all(torch.equal(x, y) for x, y in zip(before[:3], after[:3], strict=True))


@pytest.mark.parametrize(("names", "wanted"), [((), ("a", "b")), (("a", "b"), ())])
def test_category_head_may_come_and_go(names: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    network = EventBert(SHOP.model, Shape(purchase_heads=2, categories=len(names)))
    assert retrain_module._with_classes(network, names, wanted).shape.categories == len(wanted)


# A crash harms nobody --------------------------------------------------------------------------------


def crash(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("at_once")
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
def test_crash_at_any_step_keeps_the_champion_and_the_next_retraining_goes_through(
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


@pytest.mark.usefixtures("at_once")
def test_swap_that_ends_before_its_last_step_leaves_the_old_link_and_can_be_made_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, swap = shop.current, Path.replace

    def replace(path: Path, target: Path) -> Path:
        return crash() if target.name == "current" else swap(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            shop.retrain()
    assert shop.current == before
    assert (shop.folder / ".current").is_symlink()  # the half-made swap
    Registry(shop.folder).promote(before)
    assert shop.current == before and not (shop.folder / ".current").is_symlink()


def test_promotion_never_leaves_a_moment_without_a_champion(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change of the folder on the way is one after which ``current`` still leads to a model."""
    link, seen = shop.folder / "current", []
    for name in ("symlink_to", "replace", "unlink"):
        change = getattr(Path, name)

        def spy(path: Path, *args: Any, change: Callable[..., Any] = change, **kwargs: Any) -> Any:
            out = change(path, *args, **kwargs)
            seen.append((link / "manifest.json").is_file())
            return out

        monkeypatch.setattr(Path, name, spy)
    Registry(shop.folder).promote(shop.current)
    assert len(seen) == 3 and all(seen)


def test_second_retraining_at_the_same_time_is_refused(shop: Shop) -> None:
    with Registry(shop.folder).locked(), pytest.raises(ConfigError, match="another retraining is at work"):
        shop.retrain()


def test_old_versions_go_but_never_the_champion(shop: Shop) -> None:
    champion = shop.current
    for number in range(2, 10):
        for parent in (shop.folder, shop.folder / "runs"):
            (parent / f"{number:04d}-{'0' * 12}").mkdir()
    Registry(shop.folder).prune()
    left = sorted(p.name for p in shop.folder.iterdir() if re.match(r"\d", p.name))
    assert left == [champion, *(f"{number:04d}-{'0' * 12}" for number in range(10 - VERSIONS_KEPT + 1, 10))]
    assert sorted(p.name for p in (shop.folder / "runs").iterdir()) == left


def test_link_to_what_is_not_there_is_refused_with_the_way_out(shop: Shop) -> None:
    shutil.rmtree(shop.folder / "runs" / shop.current)
    with pytest.raises(ConfigError, match="put them back, or link current to a version that is there"):
        shop.retrain()


def test_folder_of_one_model_is_no_registry(begun: Shop) -> None:
    with pytest.raises(ConfigError, match="is one model, expected a folder of models"):
        Registry(begun.folder / begun.current)


def test_command_says_kept_and_succeeds_when_the_champion_stays(later: Shop, tmp_path: Path) -> None:
    settings = tmp_path / "shop.toml"
    settings.write_text(as_toml(later.late))
    result = CliRunner().invoke(cli, ["retrain", str(settings), "--models", str(later.folder)])
    assert result.exit_code == 0, result.output
    assert f"kept {later.current}" in result.output.replace("\n", " ")
