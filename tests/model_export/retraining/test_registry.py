"""Registry: at every moment ``current`` leads to a whole model, and broken folders are refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_export.retraining.registry import VERSIONS_KEPT, Registry
from stream.errors import ConfigError
from tests.model_export.retraining.conftest import Shop


@pytest.mark.usefixtures("instant_challenger")
def test_promotion_that_stops_before_its_last_step_keeps_the_old_link_and_can_be_repeated(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, swap = shop.current, Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name == "current":
            raise KeyboardInterrupt
        return swap(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            shop.retrain()
    assert shop.current == before
    assert (shop.folder / ".current").is_symlink()  # the unfinished swap
    Registry(shop.folder).promote(before)
    assert shop.current == before and not (shop.folder / ".current").is_symlink()


def test_there_is_a_champion_after_every_step_of_a_promotion(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every change of the folder, ``current`` still leads to a model."""
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


def test_old_versions_are_removed_but_never_the_champion(shop: Shop) -> None:
    champion = shop.current
    for number in range(2, 10):
        for parent in (shop.folder, shop.folder / "runs"):
            (parent / f"{number:04d}-{'0' * 12}").mkdir()
    Registry(shop.folder).prune()
    left = sorted(p.name for p in shop.folder.iterdir() if re.match(r"\d", p.name))
    assert left == [champion, *(f"{number:04d}-{'0' * 12}" for number in range(10 - VERSIONS_KEPT + 1, 10))]
    assert sorted(p.name for p in (shop.folder / "runs").iterdir()) == left


def test_broken_link_is_refused_with_the_next_step(shop: Shop) -> None:
    shutil.rmtree(shop.folder / "runs" / shop.current)
    with pytest.raises(ConfigError, match="put them back, or link current to a version that is there"):
        shop.retrain()


def test_model_folder_is_refused_as_registry(begun: Shop) -> None:
    with pytest.raises(ConfigError, match="is one model, expected a folder of models"):
        Registry(begun.folder / begun.current)
