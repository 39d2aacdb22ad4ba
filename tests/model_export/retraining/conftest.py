"""A registry of a small shop before and after a retraining. Tests that change it get a copy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from rich.console import Console

from model_export.retraining import retrain as retrain_module
from model_export.retraining.registry import Champion, Registry
from model_export.retraining.retrain import Retraining
from model_export.settings import Settings
from stream.contract.manifest import Variant
from stream.datasets.market import Habits, Market
from tests.model_export.small import SHOP, changed

START = datetime(2024, 1, 1, tzinfo=UTC)
USERS, DAYS = 120, 60
#: One number format shows that a folder serves, and takes a tenth of the time.
FP32: tuple[Variant, ...] = ("fp32",)
VISITS = Habits(search=0.0, views_mean=1.0, cart=0.4)
#: After the change shoppers leave four times as fast, and order nearly everything that they put into the cart.
RUSH = Habits(search=0.0, views_mean=1.0, cart=0.4, conversion_a=8.0, conversion_b=1.0, hazard_beta_days=15.0)


def write_events(path: Path, days: int) -> Path:
    """Write events of a market that changes on day ``DAYS``."""
    change, end = START + timedelta(days=DAYS), START + timedelta(days=days)
    events = [*Market(USERS, START, 3, habits=VISITS).events(min(change, end))]
    if end > change:
        events += Market(USERS, change, 4, habits=RUSH).events(end)
    path.write_bytes(b"\n".join(event.encode() for event in events) + b"\n")
    return path


@dataclass(frozen=True)
class Shop:
    """A registry folder, the result of its last retraining, and settings for the first days and for all days."""

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


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A registry with a first champion, trained on the days before the change."""
    root = tmp_path_factory.mktemp("shop")
    early, late = (
        changed(SHOP, "data", source=str(write_events(root / f"{days}.jsonl", days))) for days in (DAYS, 2 * DAYS)
    )
    key = Ed25519PrivateKey.generate()
    (root / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (root / "public").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    result = retrain_module.retrain(early, root / "models", Console(quiet=True), variants=FP32, sign_key=root / "key")
    return Shop(root / "models", result, early, late)


@pytest.fixture(scope="session")
def retrained(begun: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The same registry after a retraining on all days."""
    shop = begun.copied(tmp_path_factory.mktemp("later") / "models")
    return Shop(shop.folder, shop.retrain(), shop.early, shop.late)


@pytest.fixture
def shop(begun: Shop, tmp_path: Path) -> Shop:
    return begun.copied(tmp_path / "models")


@pytest.fixture
def later(retrained: Shop, tmp_path: Path) -> Shop:
    return retrained.copied(tmp_path / "models")


@pytest.fixture
def instant_challenger(retrained: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the challenger of the second retraining at once, without training it again."""
    champion = Registry(retrained.folder).champion()
    assert champion is not None

    def challenger(settings: Settings, _: Champion | None, examples: Any, __: Console) -> Any:
        categories = retrain_module.frequent_categories(examples.train, settings.model.categories)
        network, validated, run = champion.network, champion.validated, champion.run
        return retrain_module.Model(network, validated, run.calibration, categories, 2, 2), True

    monkeypatch.setattr(retrain_module, "_challenger", challenger)
