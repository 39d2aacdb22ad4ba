"""Tests of a rolling upgrade: workers of two state versions share the partitions, and a downgrade is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.contract.columns import STATE_VERSION
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import WorkerProcess, partition_of, produce, wait_for
from tests.broker.undisturbed import assert_as_undisturbed, shoppers

pytestmark = pytest.mark.broker

OLD = "tests.broker.version_one"
APPLIED = 'valuestream_events_total{outcome="applied"}'


def assigned(*workers: WorkerProcess) -> list[float]:
    return [worker.metric("valuestream_partitions_assigned") for worker in workers]


def versions(settings: Settings) -> dict[int, set[int]]:
    """Partition → state versions of its changelog values."""
    by_partition: dict[int, set[int]] = {}
    for record in harness.read_topic(settings, changelog_topic(settings)):
        by_partition.setdefault(record.partition, set()).add(record.value[0])
    return by_partition


def test_workers_are_upgraded_one_by_one_and_an_older_one_then_refuses_to_start(make_settings, tmp_path: Path) -> None:
    first, second = make_settings(instance_id="a"), make_settings(instance_id="b")
    traffic = [shoppers(6_000, users=400, seed=seed) for seed in (1, 2, 3, 4)]
    assert {partition_of(key.decode()) for key, _ in traffic[3]} == set(range(harness.PARTITIONS))
    with WorkerProcess(first, tmp_path / "old", OLD) as old, WorkerProcess(second, tmp_path / "new") as new:
        # They share before the first event: the older one would refuse to take over what the newer one has written.
        wait_for("both to have two partitions", lambda: old.alive() and new.alive() and assigned(old, new) == [2, 2])
        produce(first, traffic[0] + traffic[1])
        for worker in (old, new):
            wait_for("both to work", lambda worker=worker: worker.alive() and worker.metric(APPLIED) > 1_000)
        new.wait_idle(first)
        produce(first, traffic[2])
        assert old.terminate() == 0, old.log()
        # Events go on while the old worker is replaced. The new one starts with its store, which holds version 1.
        with WorkerProcess(first, tmp_path / "replaced") as replaced:
            wait_for("it to be back", lambda: new.alive() and replaced.alive() and assigned(replaced, new) == [2, 2])
            produce(first, traffic[3])
            wait_for("it to work", lambda: replaced.alive() and replaced.metric(APPLIED) > 1_000)
            for worker in (replaced, new):
                worker.wait_idle(first)
            assert replaced.terminate() == 0, replaced.log()
        assert new.terminate() == 0, new.log()
    found = versions(first)
    assert set().union(*found.values()) == {1, STATE_VERSION}
    assert any(both == {1, STATE_VERSION} for both in found.values())
    assert_as_undisturbed(first, orders=False)
    assert_refused(first, tmp_path / "downgraded")


def assert_refused(settings: Settings, log: Path) -> None:
    """Check that the older release ends with one line that says why and what to do, and changes nothing."""
    before = harness.committed(settings), versions(settings)
    produce(settings, shoppers(100, users=400, seed=5))
    with WorkerProcess(settings, log, OLD) as old:
        assert old.process.wait(harness.WAIT_S) == 1
        (line,) = [line for line in old.log().splitlines() if line.startswith("valuestream: ")]
    assert line == (
        f"valuestream: state version is {STATE_VERSION}, this build reads 1; "
        "run the release that wrote it, or start with a new --app-id"
    )
    assert (harness.committed(settings), versions(settings)) == before
