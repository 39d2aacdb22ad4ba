"""Tests of the scenarios: the short form of each must pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.chaos.scenarios  # noqa: F401 - fills SCENARIOS
from stream.commands.broker.embedded import EmbeddedBroker
from tests.chaos.run import play
from tests.chaos.world import BROKER_PROPERTIES, SCENARIOS

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker for the scenarios that do not harm it. It allows shorter sessions than the broker of other tests."""
    with EmbeddedBroker(tmp_path_factory.mktemp("chaos"), properties=BROKER_PROPERTIES) as broker:
        broker.start(print)
        yield broker


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if not scenario.own_broker])
def test_topics_after_the_faults_are_those_of_an_undisturbed_run(
    name: str, shared: EmbeddedBroker, tmp_path: Path
) -> None:
    verdict = play(SCENARIOS[name], shared, tmp_path, seed=1, short=True)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.own_broker])
def test_topics_after_faults_of_the_broker_are_those_of_an_undisturbed_run(name: str, tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "broker", properties=BROKER_PROPERTIES) as broker:
        broker.start(print)
        verdict = play(SCENARIOS[name], broker, tmp_path, seed=1, short=True)
    assert verdict.passed, verdict
