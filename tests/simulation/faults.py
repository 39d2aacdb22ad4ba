"""Faults: what may go wrong in a schedule, and how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError, RequestTimedOutError

from stream.errors import ScoringError
from tests.simulation.broker import CHANGELOG
from tests.simulation.network import WITHIN

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["ALWAYS", "FAULTS"]


def kill(world: World) -> None:
    """Kill a process with -9."""
    if world.processes:
        world.kill(world.rng.choice(world.processes))


def restart(world: World) -> None:
    """Start a worker: with the disk it had, with a disk that lost its last writes, or with an empty one."""
    slot = world.rng.randrange(len(world.disks))
    if any(p.name.startswith(f"w{slot}.") for p in world.processes):
        return
    disk = world.rng.random()
    if disk < 0.2:
        world.disks[slot].lose_writes()
    elif disk < 0.4:
        world.disks[slot].lose()
    world.start(slot)


def stop(world: World) -> None:
    """Send SIGTERM to a process."""
    process = world.rng.choice(world.processes) if world.processes else None
    if process is not None and not process.stopping:
        world.note(f"stop {process.name}")
        process.stop()


def pause(world: World) -> None:
    """Send SIGSTOP to a process."""
    running = [p for p in world.processes if not p.paused]
    if running:
        process = world.rng.choice(running)
        world.note(f"pause {process.name}")
        process.paused = True


def go_on(world: World) -> None:
    """Send SIGCONT to a paused process."""
    paused = [p for p in world.processes if p.paused]
    if paused:
        process = world.rng.choice(paused)
        world.note(f"continue {process.name}")
        process.paused = False


def stall(world: World) -> None:
    """Let a long time pass in which nothing happens, so that sessions and leases end."""
    seconds = world.rng.choice((2.0, 4.8, 5.6, 7.0))
    world.note(f"{seconds} s pass")
    world.advance(seconds)


def lose(world: World) -> None:
    """Break a connection before a request or its answer arrives."""
    under_way = [r for r in (*world.network.sent, *world.network.answered) if r.lane != WITHIN]
    # Prefer produce requests: most requests are heartbeats and fetches, and these are repeated anyway.
    under_way = [r for r in under_way if r.name.startswith("append")] or under_way
    if under_way:
        request = world.rng.choice(under_way)
        world.note(f"{request.process.name}: {request.name} is lost")
        world.network.fail(request, KafkaConnectionError("lost"))


def refuse(world: World) -> None:
    """Let the broker refuse a produce request or a commit."""
    asked = [r for r in world.network.sent if r.name.startswith(("append", "commit"))]
    if asked:
        request = world.rng.choice(asked)
        world.note(f"{request.process.name}: {request.name} is refused")
        error = MessageSizeTooLargeError() if request.lane else RequestTimedOutError()
        world.network.fail(request, error)


def compact(world: World) -> None:
    """Let the broker compact a changelog."""
    world.broker.compact(CHANGELOG, world.rng.randrange(2), world.rng)


def fail_inference(world: World) -> None:
    """Let an inference fail."""
    busy = [p for p in world.processes if p.loop.jobs]
    if busy:
        process = world.rng.choice(busy)
        process.loop.finish(world.rng.choice(process.loop.jobs), ScoringError("not now"))


#: Fault → its weight when one is chosen.
FAULTS: Final[dict[Callable[[World], None], int]] = {
    kill: 3,
    stop: 1,
    pause: 3,
    stall: 3,
    lose: 3,
    refuse: 1,
    compact: 1,
    fail_inference: 1,
}
#: Every schedule has these. Without them no worker would be left soon.
ALWAYS: Final[dict[Callable[[World], None], int]] = {restart: 8, go_on: 6}
