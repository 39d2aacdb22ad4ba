"""Group: stands for the coordinator of a consumer group, with members, sessions, generations and commits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from aiokafka.errors import (
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from stream.clock import Clock
from tests.simulation.network import Reply

if TYPE_CHECKING:
    from tests.simulation.process import Process

__all__ = ["Group"]


@dataclass(slots=True)
class Member:
    """One member. ``joining`` answers its JoinGroup request when the generation is complete."""

    process: Process
    instance: str
    seen: float
    joining: Reply | None = None


class Group:
    """Rebalances eagerly, as Kafka's GroupCoordinator does. A static member that comes back keeps its partitions.

    When a generation is complete, ``on_generation`` is called with the partitions' owners, before any member learns of
    it.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        partitions: int,
        session_s: float,
        rebalance_s: float,
        on_generation: Callable[[Mapping[int, Process]], None],
    ) -> None:
        self._clock, self._n_partitions = clock, partitions
        self._session_s, self._rebalance_s = session_s, rebalance_s
        self._on_generation = on_generation
        self.members: dict[int, Member] = {}
        self.generation = 0
        self.owners: dict[int, int] = {}
        self.committed: dict[int, tuple[int, str]] = {}
        self._ids = count(1)
        self._rebalancing_since: float | None = None

    @property
    def owned(self) -> dict[int, Process]:
        """Partition → the process that owns it."""
        return {number: self.members[id].process for number, id in self.owners.items() if id in self.members}

    # -- requests -------------------------------------------------------------------------------------------

    def join(self, process: Process, member: int | None, instance: str, reply: Reply) -> None:
        """JoinGroup: answer with (member id, generation) when all members have joined."""
        before = self._id_of(instance)
        if member is None and before is not None and self._rebalancing_since is None:
            self._replace(before, Member(process, instance, self._clock.monotonic()), reply)
            return
        if member is None and before is not None:
            self._remove(before)
        if member is not None and member not in self.members:
            reply(None, UnknownMemberIdError())
            return
        id = next(self._ids) if member is None else member
        self.members[id] = Member(process, instance, self._clock.monotonic(), reply)
        self._rebalance()
        self.tick()

    def sync(self, member: int, generation: int, reply: Reply) -> None:
        """SyncGroup: answer with the member's partitions."""
        if (error := self._refusal(member, generation)) is not None:
            reply(None, error)
            return
        self.members[member].seen = self._clock.monotonic()
        reply([number for number, id in self.owners.items() if id == member], None)

    def heartbeat(self, member: int, generation: int, reply: Reply) -> None:
        """Heartbeat: answer whether the member must join again."""
        if (error := self._refusal(member, generation)) is not None:
            reply(None, error)
            return
        self.members[member].seen = self._clock.monotonic()
        reply(self._rebalancing_since is not None, None)

    def commit(self, member: int, generation: int, offsets: Mapping[int, tuple[int, str]], reply: Reply) -> None:
        """OffsetCommit: refuse it if the member or its generation is out of date."""
        if (error := self._refusal(member, generation, rebalancing=True)) is not None:
            reply(None, error)
            return
        self.committed |= offsets
        reply(None, None)

    def leave(self, member: int, reply: Reply) -> None:
        """LeaveGroup: remove the member."""
        self._remove(member)
        self.tick()
        reply(None, None)

    # -- time -----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Remove members that lost their session or did not join in time, and complete a generation that is ready."""
        now = self._clock.monotonic()
        joining = {id for id, m in self.members.items() if m.joining is not None and m.process.alive}
        late = self._rebalancing_since is not None and now - self._rebalancing_since > self._rebalance_s
        for id, member in list(self.members.items()):
            if id not in joining and (now - member.seen > self._session_s or late):
                self._remove(id)
        if self._rebalancing_since is not None and self.members and joining >= self.members.keys():
            self._complete()

    def _complete(self) -> None:
        self.generation += 1
        self._rebalancing_since = None
        ids = sorted(self.members)
        self.owners = {n: ids[(n + self.generation) % len(ids)] for n in range(self._n_partitions)}
        self._on_generation(self.owned)
        for id, member in self.members.items():
            joining, member.joining, member.seen = member.joining, None, self._clock.monotonic()
            if joining is not None:
                joining((id, self.generation), None)

    # -- members --------------------------------------------------------------------------------------------

    def _refusal(self, member: int, generation: int, *, rebalancing: bool = False) -> Exception | None:
        known = self.members.get(member)
        if known is None:
            return UnknownMemberIdError()
        if generation != self.generation:
            return IllegalGenerationError()
        if known.joining is not None and not rebalancing:
            return RebalanceInProgressError()
        return None

    def _id_of(self, instance: str) -> int | None:
        same: Iterable[int] = (id for id, m in self.members.items() if instance and m.instance == instance)
        return next(iter(same), None)

    def _replace(self, before: int, member: Member, reply: Reply) -> None:
        del self.members[before]
        id = next(self._ids)
        self.members[id] = member
        self.owners = {number: id if owner == before else owner for number, owner in self.owners.items()}
        self._on_generation(self.owned)
        reply((id, self.generation), None)

    def _remove(self, member: int) -> None:
        if self.members.pop(member, None) is not None:
            self._rebalance()

    def _rebalance(self) -> None:
        if self._rebalancing_since is None:
            self._rebalancing_since = self._clock.monotonic()
