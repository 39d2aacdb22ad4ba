"""Member: does what aiokafka's coordinator, Faust's app and Faust's tables do in a worker process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import IllegalGenerationError, KafkaError, UnknownMemberIdError
from faust.types import TP

from stream.assignment import Assignment
from stream.checkpoint.lease import MembershipLease
from stream.kafka.fetches import OneEventPerFetch
from tests.simulation.broker import CHANGELOG
from tests.simulation.client import Consumer
from tests.simulation.disk import Disk
from tests.simulation.network import WITHIN, Reply

if TYPE_CHECKING:
    from tests.simulation.loop import ProcessLoop
    from tests.simulation.world import World

__all__ = ["NAP_S", "SESSION_S", "Member"]

SESSION_S: Final = 6.0
_HEARTBEAT_S: Final = SESSION_S / 4
#: How long a task waits if it finds nothing to do, or if its request was lost.
NAP_S: Final = 0.4
_CHANGELOG_FETCH_MAX: Final = 7


class Member:
    """Joins the group, sends heartbeats, recovers its assigned partitions, and gives them up."""

    assignment: Assignment
    consumer: Consumer
    lease: MembershipLease
    loop: ProcessLoop
    store: Disk
    _scheduler: OneEventPerFetch

    def __init__(self, world: World, name: str, instance: str) -> None:
        self.world, self.name, self.instance = world, name, instance
        self.member: int | None = None
        self.generation = -1
        #: The assigned partitions.
        self.numbers: tuple[int, ...] = ()
        self._joined = False
        self._rejoin, self._assigned = asyncio.Event(), asyncio.Event()

    async def finish(self) -> None:
        """Make everything that was taken in durable while the partitions are ours."""
        raise NotImplementedError

    def call(self, name: str, handle: Callable[[Reply], None], lane: Any = None) -> asyncio.Future[Any]:
        """Send a request to the broker."""
        return self.world.network.call(self, name, handle, lane)

    # -- the group: aiokafka's coordinator --------------------------------------------------------------------

    async def _belong(self) -> None:
        while True:
            await self._join()
            self._assigned.set()
            await self._rejoin.wait()
            await self._give_up()
            self._joined = False

    async def _join(self) -> None:
        group = self.world.group
        while True:
            try:
                self.member, generation = await self.call("join", partial(group.join, self, self.member, self.instance))
                sent, member = self.loop.time(), self.member
                numbers = await self.call("sync", partial(group.sync, member, generation))
            except UnknownMemberIdError:
                self.member = None
            except KafkaError:
                await asyncio.sleep(NAP_S)
            else:
                self.lease.renew(sent)
                self.generation, self.numbers = generation, tuple(numbers)
                for number in numbers:
                    self.consumer.fetch_at[number] = group.committed.get(number, (0, ""))[0]
                self._rejoin.clear()
                self._joined = True
                return

    async def _heartbeat(self) -> None:
        group = self.world.group
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            if not self._joined or (member := self.member) is None:
                continue
            sent, generation = self.loop.time(), self.generation
            try:
                rebalancing = await self.call("heartbeat", partial(group.heartbeat, member, generation))
            except (UnknownMemberIdError, IllegalGenerationError):
                if self._joined and (member, generation) == (self.member, self.generation):
                    self.member = None
                    self._rejoin.set()
            except KafkaError:
                continue
            else:
                if rebalancing:
                    self._rejoin.set()
                else:
                    self.lease.renew(sent)

    async def _give_up(self) -> None:
        """Drain the partitions while they are ours, then forget them."""
        if self.numbers:
            if self.world.rng.random() < 0.5:
                while not self._fetches.empty():
                    self._fetches.get_nowait()
            await self.finish()
            await self.consumer.commit()
        self.assignment.revoke()
        self.consumer.forget()
        self.numbers = ()

    async def _leave(self) -> None:
        try:
            await self._give_up()
            if (member := self.member) is not None:
                await self.call("leave", partial(self.world.group.leave, member))
        except Exception as error:
            self.error = self.error or error

    # -- recovery: Faust's tables, then the state in memory ---------------------------------------------------

    async def _recover(self) -> None:
        while True:
            await self._assigned.wait()
            self._assigned.clear()
            try:
                await self._recover_store()
                if not self._assigned.is_set():
                    await self._resume()
            except KafkaError:
                self._assigned.set()

    async def _recover_store(self) -> None:
        for number in self.numbers:
            end = await self.call("end", lambda reply, n=number: reply(self.world.broker.end(CHANGELOG, n), None))
            while (at := _next(self.store.persisted_offset(TP(CHANGELOG, number)))) < end:
                records = await self._read(CHANGELOG, number, at, _CHANGELOG_FETCH_MAX)
                if self._assigned.is_set():
                    return
                self.store.recover(number, records)

    async def _resume(self) -> None:
        tps = self.consumer.assignment()
        by_number: dict[int, Any] = {}

        async def positions() -> dict[int, Any]:
            found = await self.consumer.resume_positions(tps)
            by_number.update({tp.partition: at for tp, at in found.items()})
            return by_number

        if not self.numbers or not await self.assignment.resume(lambda: self._scheduler.seeks, positions()):
            return
        self.world.resuming(self, by_number)
        # Before Faust seeks, aiokafka may go on fetching from the old position, and other tasks may run in between.
        self.consumer.active.update(self.numbers)
        await self.call("seek", lambda reply: reply(None, None), WITHIN)
        await self.consumer.perform_seek()
        self._scheduler.sought()

    async def _read(self, topic: str, number: int, at: int, records_max: int) -> list[Any]:
        broker = self.world.broker
        found: list[Any] = await self.call(
            f"fetch {topic} {number}:{at}",
            lambda reply: reply(broker.read(topic, number, at, self.world.rng.randrange(1, records_max + 1)), None),
        )
        return found


def _next(offset: int | None) -> int:
    return 0 if offset is None else offset + 1
