"""Disk: the disk is full, refuses writes, or has damaged files."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from stream.contract.columns import USER
from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from tests.broker import harness
from tests.broker.harness import WorkerProcess, produce, wait_for
from tests.chaos.judge import Verdict, judge
from tests.chaos.traffic import Shop
from tests.chaos.world import World, scenario, wait_settled

__all__ = ["disk_corrupted", "disk_refuses"]

Harm = Callable[[Path, random.Random], None]


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(16):
        data[rng.randrange(len(data))] ^= 0xFF
    path.write_bytes(data)


def _cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def _blank(path: Path, rng: random.Random) -> None:
    """As after a power loss: the file has its size, but its last pages are zeros."""
    size = path.stat().st_size
    _cut(path, rng)
    os.truncate(path, size)


def _remove(path: Path, _: random.Random) -> None:
    path.unlink()


#: How a journal is damaged, and whether the worker must notice. It need not notice if the journal looks as it did at an
#: earlier time, or is new: the changelog has the rest.
_HARMS: Final[list[tuple[Harm, bool]]] = [(_flip, True), (_blank, True), (_cut, False), (_remove, False)]


@scenario("disk_corrupted")
def disk_corrupted(world: World) -> Verdict:
    """Journals are damaged while no worker runs; the next one warns once and reads the rest from the changelog."""
    settings, rng = world.settings(instance_id="rotten"), random.Random(world.seed)
    shop, worker = Shop(world.seed, users=200), world.worker(settings)
    problems: list[str] = []
    damaged, recovery_seconds = 0, 0.0
    for _ in range(1 if world.short else 5):
        produce(settings, shop.half_hour(1_000 if world.short else 20_000))
        worker.wait_ready()
        wait_settled(settings, worker)
        clean = world.short or rng.random() < 0.5
        worker.terminate() if clean else worker.kill()
        expected = _damage(settings.data_dir, rng)
        damaged += len(expected)
        produce(settings, shop.half_hour(500))
        started, worker = time.monotonic(), world.worker(settings)
        worker.wait_ready()
        recovery_seconds = max(recovery_seconds, time.monotonic() - started)
        problems += _wrong_warnings(worker, settings.data_dir, expected)
    wait_settled(settings, worker)
    if worker.terminate() != 0:
        problems.append(f"the worker ended with {worker.process.returncode}")
    verdict = judge(
        "disk_corrupted", world.seed, settings, recovery_seconds=recovery_seconds, problem="; ".join(problems)
    )
    return msgspec.structs.replace(verdict, measures={"rebuilt": damaged})


def _damage(data_dir: Path, rng: random.Random) -> list[Path]:
    """Damage a file of each journal. Returns the journals with damage that the worker must notice."""
    noticed = []
    for journal in sorted(data_dir.rglob("users-*")):
        segments = [path for path in sorted(journal.glob("*.segment")) if path.stat().st_size]
        harm, must_be_noticed = rng.choice(_HARMS)
        if segments:
            harm(rng.choice(segments), rng)
            if must_be_noticed:
                noticed.append(journal)
    return noticed


def _wrong_warnings(worker: WorkerProcess, data_dir: Path, expected: list[Path]) -> list[str]:
    """Journals with a wrong number of warnings: each ``expected`` one must have one, any other at most one."""
    found = [line for line in worker.log().splitlines() if "bytes are damaged" in line]
    counts = {path: sum(f"{path}:" in line for line in found) for path in data_dir.rglob("users-*")}
    return [
        f"{count} warnings of {path.name}"
        for path, count in counts.items()
        if count > 1 or (path in expected and not count)
    ]


@scenario("disk_refuses")
def disk_refuses(world: World) -> Verdict:
    """The disk fills up while the worker runs, and is read-only at the next start; each time one clear line says so."""
    settings = world.settings(instance_id="full")
    # At the start a quarter of a megabyte is written as a trial. In the short form little more fits into a file.
    limits = {"CHAOS_FILE_BYTES_MAX": str((1 if world.short else 8) * 280_000)}
    full = world.worker(settings, "tests.chaos.limited", VALUESTREAM_CHECKPOINT_INTERVAL_S="0.2", **limits)
    full.wait_ready()
    _fill(settings, full, Shop(world.seed, users=2_500 if world.short else 10_000))
    problems = _ends_with(full, "File too large; expected", "raise the limit on file sizes")
    problems += _not_durable(settings)
    folders = [settings.data_dir, *(path for path in settings.data_dir.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        refused = world.worker(settings, "tests.chaos.limited")
        problems += _ends_with(refused, "cannot be written: Permission denied", "give this user the right")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    started, worker = time.monotonic(), world.worker(settings)
    worker.wait_ready()
    recovery_seconds = time.monotonic() - started
    wait_settled(settings, worker, timeout_s=300)
    if worker.terminate() != 0:
        problems.append(f"the worker ended with {worker.process.returncode}")
    return judge("disk_refuses", world.seed, settings, recovery_seconds=recovery_seconds, problem="; ".join(problems))


def _fill(settings: Settings, worker: WorkerProcess, shop: Shop) -> None:
    """Send events until the worker has ended, but no more than 30 times."""
    for _ in range(30):
        produce(settings, shop.half_hour(4_000))
        try:
            worker.process.wait(2)
        except subprocess.TimeoutExpired:
            continue
        return


def _ends_with(worker: WorkerProcess, found: str, step: str) -> list[str]:
    """What is wrong with the worker's end. Its last line must say what it found, what it expected, and what to do."""
    wait_for("the worker to end", lambda: worker.process.poll() is not None)
    last = worker.log().strip().splitlines()[-1]
    good = last.startswith("valuestream: ") and found in last and "expected" in last and step in last
    problems = [] if good else [f"the last line was {last!r}, expected {found!r} and {step!r}"]
    if worker.process.returncode != 1:
        problems.append(f"the worker ended with {worker.process.returncode}, expected 1")
    return problems


def _not_durable(settings: Settings) -> list[str]:
    """A line for each partition that is committed past the last event in the changelog."""
    newest: dict[int, int] = {}
    for record in harness.read_topic(settings, changelog_topic(settings)):
        head = np.frombuffer(record.value[1 : 1 + USER.itemsize], USER)
        newest[record.partition] = max(newest.get(record.partition, -1), int(head["applied_offset"][0]))
    return [
        f"partition {partition} is committed up to {offset}, durable up to {newest.get(partition, -1) + 1}"
        for partition, offset in harness.committed(settings).items()
        if offset > newest.get(partition, -1) + 1
    ]
