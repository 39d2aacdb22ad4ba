"""World: a broker, a group, a few worker processes, and a seed that chooses each next step of the schedule.

In a step a process runs on, a request arrives, an answer arrives, time passes, or something breaks.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Final

from aiokafka.errors import KafkaConnectionError, KafkaError

from stream.checkpoint.position import Position
from stream.clock import ManualClock
from stream.errors import PublishError
from stream.metrics import Metrics
from tests.simulation.broker import EVENTS, Broker, Stored
from tests.simulation.checks import Checks
from tests.simulation.disk import Disk
from tests.simulation.faults import ALWAYS, FAULTS
from tests.simulation.group import Group
from tests.simulation.network import Network, Reply
from tests.simulation.process import REST_S, SESSION_S, Process
from tests.simulation.shop import START, events

__all__ = ["PARTITIONS", "InvariantError", "World"]

PARTITIONS: Final = 2
_REBALANCE_S: Final = 60.0
#: Number of steps with faults; and the largest number of steps until all is done after them.
_CHAOS_STEPS: Final = 350
_STEPS_MAX: Final = 12_000
#: Probability that a slow request or inference has to wait once more.
_SLOWNESS: Final = 0.9
_LOOK_EVERY: Final = 16
_FAULT_SHARE: Final = 0.045


class InvariantError(AssertionError):
    """An invariant does not hold. The seed in the message gives the same schedule again."""


class World:
    """One schedule. With ``late`` a request may arrive after its process was replaced, which no lease can prevent."""

    def __init__(
        self,
        seed: int,
        *,
        late: bool = False,
        sabotage: Callable[[Process], None] = lambda process: None,
    ) -> None:
        self.seed, self.late, self.sabotage = seed, late, sabotage
        self.rng = random.Random(seed)
        self.clock, self.metrics = ManualClock(START), metrics()
        self.network, self.broker = Network(self.rng, slow_share=self.rng.choice((0.02, 0.1, 0.4))), Broker()
        self.group = Group(
            self.clock,
            partitions=PARTITIONS,
            session_s=SESSION_S,
            rebalance_s=_REBALANCE_S,
            on_generation=self._on_generation,
        )
        self.owners: dict[int, Process] = {}
        self.static = self.rng.random() < 0.5
        self.fetch_records_max = self.rng.choice((3, 8, 100))
        self.processes: list[Process] = []
        self.disks = [Disk(seed) for _ in range(self.rng.choice((1, 2, 3)))]
        self.trace: list[tuple[float, str]] = []
        self.coming = self._source()
        self.checks = Checks(self, list(self.coming), PARTITIONS)
        self._started, self._rested_at = 0, 0.0
        self.chaos = True
        # Each schedule has its own mix of faults (swarm testing, Groce et al. 2012), because one fault easily hides the
        # effect of another.
        self.faults = {fault: weight * self.rng.choice((0, 1, 4)) for fault, weight in FAULTS.items()} | ALWAYS
        self.idleness = self.rng.choice((0.02, 0.1, 0.25))

    def _source(self) -> deque[Stored]:
        rng, source, coming = self.rng, Broker(), deque[Stored]()
        for number, record in events(
            rng, rng.choice((20, 20, 60, 150)), users=rng.choice((2, 6)), unreadable=rng.choice((0.05, 0.3))
        ):
            skip = rng.randrange(4) if rng.random() < 0.1 else 0
            source.append(EVENTS, number, [record], START, skip=skip)
            coming.append(source.logs[EVENTS, number][-1])
        return coming

    # -- a schedule -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the whole schedule: first with faults, then without."""
        self.start(0)
        for _ in range(_CHAOS_STEPS):
            none_runs = all(process.paused for process in self.processes)
            if none_runs or self.rng.random() < _FAULT_SHARE:
                self._break_something()
            else:
                self.step()
        self.settle()

    def settle(self) -> None:
        """Go on without faults until all is done, then end all workers and check the result."""
        for process in self.processes:
            process.paused = False
        self.chaos, self.idleness = False, 0.05
        self._rested_at = self.clock.monotonic()
        self._until(self._settled, "everything to be scored and committed")
        for process in list(self.processes):
            self.note(f"stop {process.name}")
            process.stop()
        self._until(lambda: not self.processes, "the workers to end", restart=False)
        self.checks.final()

    def _until(self, done: Callable[[], bool], what: str, *, restart: bool = True) -> None:
        for step in range(_STEPS_MAX):
            if step % _LOOK_EVERY == 0 and done():
                return
            if restart and not self.processes:
                self.start(self.rng.randrange(len(self.disks)))
            self.step()
        self.fail(f"waited {_STEPS_MAX} steps for {what}")

    def _settled(self) -> bool:
        """Whether everything is committed and scored, and one more sweep and checkpoint have passed since."""
        served = {number for p in self.processes for number in p.assignment.partitions}
        at_rest = len(served) == PARTITIONS and all(p.at_rest for p in self.processes)
        if self.coming or not at_rest or not self.checks.all_committed():
            self._rested_at = self.clock.monotonic()
            return False
        return self.clock.monotonic() > self._rested_at + REST_S

    def step(self) -> None:
        """Do one of the things that may happen next."""
        choices: list[tuple[Callable[[Any], None], Any]] = []
        for process in self.processes:
            if not process.paused:
                if process.loop.ready:
                    choices.append((self._go_on, process))
                choices += [(partial(self._finish, process), job) for job in process.loop.jobs]
        choices += [(self._arrive, request) for request in self.network.arrivals()]
        choices += [(self._deliver, request) for request in self.network.answered if not request.process.paused]
        if self.coming and (not self.chaos or self.rng.random() < 0.15):
            choices.append((self._reveal, None))
        do, what = choices[self.rng.randrange(len(choices))] if choices else (self._pass_time, None)
        # A few requests and inferences take long. Now and then time passes although there is work.
        if self.rng.random() < (_SLOWNESS if self.chaos and getattr(what, "slow", False) else self.idleness):
            do, what = self._pass_time, None
        do(what)

    # -- steps ----------------------------------------------------------------------------------------------

    def _go_on(self, process: Process) -> None:
        """Let a process run until it has nothing to do, or interrupt it sooner."""
        for _ in range(self.rng.choice((1, 50, 50, 50))):
            if not process.loop.ready:
                break
            process.loop.step()
        if not process.alive:
            self.remove(process)

    def _finish(self, process: Process, job: Any) -> None:
        process.loop.finish(job)

    def _arrive(self, request: Any) -> None:
        self.note(f"{request.process.name}: {request.name} arrives")
        self.network.arrive(request)

    def _deliver(self, request: Any) -> None:
        self.network.deliver(request)

    def _reveal(self, _: None) -> None:
        for _ in range(min(len(self.coming), self.rng.randrange(1, 9))):
            record = self.coming.popleft()
            self.broker.logs[EVENTS, record.partition].append(record)

    def _pass_time(self, _: None) -> None:
        """Let time pass until the next timer of a process that is not paused."""
        timers = (p.loop.next_timer for p in self.processes if not p.paused)
        at = min(timers, default=float("inf"))
        self.advance(min(max(0.0, at - self.clock.monotonic()), 1.0))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds=seconds)
        for process in self.processes:
            process.loop.wake()
        self.group.tick()

    # -- faults ---------------------------------------------------------------------------------------------

    def _break_something(self) -> None:
        fault = self.rng.choices(list(self.faults), weights=list(self.faults.values()))[0]
        fault(self)

    def start(self, slot: int) -> None:
        """Start a worker on the disk of this slot."""
        self._started += 1
        self.disks[slot].open()
        process = Process(self, f"w{slot}.{self._started}", self.disks[slot], f"i{slot}" if self.static else "")
        self.note(f"start {process.name}")
        self.processes.append(process)
        # Its tasks must begin before anything else happens.
        while process.loop.ready:
            process.loop.step()

    def kill(self, process: Process) -> None:
        """Kill a process with -9. Some of its requests that are under way still arrive."""
        self.note(f"kill {process.name}")
        process.alive = False
        self.remove(process)

    def remove(self, process: Process) -> None:
        """Remove a process that has ended, and check why it ended."""
        self.processes.remove(process)
        if process.error is not None:
            self.note(f"{process.name} ended: {process.error!r}")
            if isinstance(process.error, InvariantError):
                raise process.error
            if not isinstance(process.error, (KafkaError, PublishError)):
                self.fail(f"{process.name} ended by {process.error!r}")
        if not self.late:
            self._settle([r for r in self.network.sent if r.process is process])
            self.network.forget(process)

    def _settle(self, requests: list[Any]) -> None:
        """End these requests now: a random number of them arrive, and the others are lost."""
        n_arriving = self.rng.randrange(len(requests) + 1)
        for request in requests[:n_arriving]:
            self._arrive(request)
        for request in requests[n_arriving:]:
            self.network.fail(request, KafkaConnectionError("lost"))

    def _on_generation(self, owners: Mapping[int, Process]) -> None:
        """Note the new owners of partitions. Requests of the old owners arrive now or never."""
        if not self.late:
            lost = [n for n, process in owners.items() if self.owners.get(n) not in (None, process)]
            self._settle(
                [r for r in self.network.sent if r.lane and r.lane[1] in lost and r.process is not owners[r.lane[1]]]
            )
        self.owners = dict(owners)
        self.note(f"generation {self.group.generation}: {', '.join(f'{n} is {p.name}' for n, p in owners.items())}")

    # -- the broker's side of requests ----------------------------------------------------------------------

    def append(self, process: Process, topic: str, partition: int, records: list[Any], reply: Reply) -> None:
        """Handle a produce request."""
        owner = self.owners.get(partition)
        if owner is not process and not self.late:
            self.fail(f"{process.name} wrote to {topic} {partition}, which is {owner.name if owner else 'nobody'}'s")
        first = self.broker.append(topic, partition, records, self.clock.time())
        self.checks.appended(topic, partition, records)
        reply(SimpleNamespace(offset=first), None)

    def commit(
        self,
        process: Process,
        member: int | None,
        generation: int,
        offsets: Mapping[int, tuple[int, str]],
        reply: Reply,
    ) -> None:
        """Handle an offset commit."""

        def checked(result: Any, error: Exception | None) -> None:
            if error is None:
                self.checks.committed(process.name, offsets)
            reply(result, error)

        self.group.commit(-1 if member is None else member, generation, offsets, checked)

    def resuming(self, process: Process, positions: Mapping[int, Position]) -> None:
        """Check a process that has recovered its store and resumes from these positions."""
        # A process that was replaced may have recovered less than its successor has committed by now.
        ours = {n: at for n, at in positions.items() if self.owners.get(n) is process}
        self.checks.resumed(process.name, process.store, ours)

    def note(self, what: str) -> None:
        """Add an entry to the trace."""
        self.trace.append((self.clock.monotonic(), what))

    def fail(self, why: str) -> None:
        """Raise InvariantError with the seed."""
        raise InvariantError(f"seed {self.seed}: {why}")


@cache
def metrics() -> Metrics:
    """One set of metrics for all schedules. Nothing reads them, and making them takes longer than a schedule."""
    return Metrics()
