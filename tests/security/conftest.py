"""Fixtures of the security tests: a broker with users, certificates and access rights, and a model folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.score.scorer import DEMO_MODEL
from tests.security.secured import Secured, make_certificates


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The broker for all tests in this folder. It has the user ``worker`` and some others, all without rights."""
    folder = tmp_path_factory.mktemp("secured")
    secured = Secured(folder / "broker", make_certificates(folder))
    with secured.broker as broker:
        broker.start(print)
        for name in ("worker", "operator", "reader", "replayer", "sender"):
            secured.add_user(name)
        yield secured


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model that a test may damage."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))
