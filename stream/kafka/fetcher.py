"""Fetcher: runs aiokafka's consumer for Faust's, on the event loop of the worker.

Faust gives it a thread and a loop of its own, so that heartbeats go on while streams compute. But two Python threads
take turns at one lock. A turn can take 5 ms, and each step of a fetch needs one: at 1,000 events/s an event waited
some 30 ms before it was taken in. Nothing computes for long on our loop, so heartbeats are in time without a thread.
See ``docs/decisions/0013-one-loop.md``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from aiokafka.errors import UnknownMemberIdError
from aiokafka.protocol.commit import OffsetCommitResponse_v3
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from aiokafka.structs import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import TP
from mode.utils.futures import maybe_async

from stream.checkpoint.lease import MembershipLease

__all__ = ["Fetcher", "hand_over_first"]

#: A successful answer to one of these says that we are a member and that the group is not rebalancing. During a
#: rebalance the answer to a heartbeat is an error: the group removes a member that does not join again in time, even
#: if its heartbeats are regular.
_MEMBERSHIP: Final = (HeartbeatRequest, SyncGroupRequest)
#: How long the broker may keep a fetch request open while there are no records.
_FETCH_MAX_WAIT_MS: Final = 100
#: A waiting consumer takes a fetch within this many turns of the loop. Behind a backlog nobody is waiting, and after
#: these turns the next fetch is sent.
_HAND_OVER_TURNS: Final = 4
#: Kafka's error codes for an unknown member id and a fenced instance id.
_UNKNOWN_MEMBER: Final = frozenset({25, 82})


class Fetcher(AIOKafkaConsumerThread):
    """Renews the lease, reads only committed records, and knows how far it has read.

    ``lease`` returns the lease; the worker sets it after Faust has made the consumer.
    """

    #: Tells Faust that there is no thread to wait for at the end.
    wait_for_shutdown = False

    def __init__(self, consumer: Consumer, lease: Callable[[], MembershipLease]) -> None:
        super().__init__(consumer, loop=consumer.loop, thread_loop=consumer.loop, beacon=consumer.beacon)
        self._lease = lease
        #: Partition → the next offset to be fetched after the records that were fetched last.
        self.next_offsets: dict[TP, int] = {}
        #: How often we have sought: until now, and until the last fetch.
        self.seeks = self.seeks_at_fetch = 0
        #: Whether another worker has joined with our instance id.
        self.replaced = False

    # -- start and stop as a plain service; mode's own methods would start and end a thread --------------------

    async def start(self) -> None:
        """Start on the running loop."""
        self._thread_started.set()
        await self._default_start()

    async def on_stop(self) -> None:
        """Close aiokafka's consumer."""
        await self.on_thread_stop()

    def _stopped_set(self) -> None:
        self._stopped.set()

    async def _stop_children(self) -> None:
        await self._default_stop_children()

    async def _stop_futures(self) -> None:
        await self._default_stop_futures()

    async def _stop_exit_stacks(self) -> None:
        await self._default_stop_exit_stacks()

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function on this loop, as there is no other thread."""
        return await maybe_async(fun(*args, **kwargs))

    # -- aiokafka's consumer ----------------------------------------------------------------------------------

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Make the consumer as Faust does, but skip records of aborted transactions and keep fetches short.

        A broker answers the requests of a connection one after the other, so a request behind a fetch waits for it.
        With Faust's 1.5 s a restart took seconds, and a partition with news waited for others that had none.
        """
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Start the consumer, and renew the lease with every answer that says that we are a member."""
        await super().on_start()
        coordinator, clock = self._ensure_consumer()._coordinator, time.monotonic
        send = coordinator._send_req

        async def send_and_renew(request: Any) -> Any:
            if self.replaced and isinstance(request, JoinGroupRequest):
                raise UnknownMemberIdError  # Otherwise we and the other worker would replace each other for ever.
            sent, lease = clock(), self._lease()
            response = await send(request)
            if isinstance(request, _MEMBERSHIP) and not response.error_code:
                lease.renew(sent)
            # The group forgets a static member when its session ends, or when another joins with its instance id.
            # Our session has not ended, so it was the other.
            if coordinator._group_instance_id and lease.in_session and _is_unknown(response):
                self.replaced = True
            return response

        coordinator._send_req = send_and_renew
        hand_over_first(self._ensure_consumer()._fetcher)

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], timeout: float | None = None, max_records: int | None = None
    ) -> Mapping[TP, list[Any]]:
        # Faust changes its set while this waits for records. If it became empty, aiokafka would fetch all partitions.
        partitions = frozenset(active_partitions or ())
        if not partitions:
            return {}
        records = await super()._fetch_records(consumer, cast("set[TP]", partitions), timeout, max_records)
        # Nothing was awaited since the fetch, so these positions belong to its records.
        self.seeks_at_fetch = self.seeks
        self.next_offsets = {
            tp: state.position
            for tp in partitions
            if (state := _fetch_state(consumer, tp)) is not None and state.has_valid_position
        }
        return records

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust's livelock detector watches its own commits, which are off (fault 13).

        Our watchdog watches the commits that we make.
        """

    async def seek_all(self, offsets: Mapping[TP, int]) -> None:
        """Seek every partition to its offset, between two fetches."""
        for tp, offset in offsets.items():
            self.seek(tp, offset)
        self.seeks += 1


def hand_over_first(fetcher: Any) -> None:
    """Make aiokafka's fetcher hand over the records of a fetch before it sends the next one.

    aiokafka sends the next fetch at once and leaves out the partitions with records that nobody has taken yet. New
    records of those partitions then wait until that fetch has ended: when others have news, or after
    ``_FETCH_MAX_WAIT_MS``. See ``docs/decisions/0013-one-loop.md``.
    """
    fetch = fetcher._proc_fetch_request

    async def fetch_and_hand_over(*args: Any) -> bool:
        has_records: bool = await fetch(*args)
        if has_records:
            for waiter in fetcher._fetch_waiters:
                fetcher._notify(waiter)
            for _ in range(_HAND_OVER_TURNS):
                if not fetcher._records:
                    break
                await asyncio.sleep(0)
        return has_records

    fetcher._proc_fetch_request = fetch_and_hand_over


def _is_unknown(response: Any) -> bool:
    """Return whether the coordinator does not know the member that sent the request.

    The answer to a commit says so for each partition; one is enough.
    """
    if isinstance(response, OffsetCommitResponse_v3):
        return any(code in _UNKNOWN_MEMBER for _, partitions in response.topics for _, code in partitions)
    return getattr(response, "error_code", 0) in _UNKNOWN_MEMBER


def _fetch_state(consumer: Any, tp: TP) -> Any:
    assignment = consumer._subscription.subscription and consumer._subscription.subscription.assignment
    return assignment and assignment.state_value(TopicPartition(*tp))
