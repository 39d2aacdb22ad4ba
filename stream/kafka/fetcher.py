"""Fetcher: the half of Faust's consumer that holds aiokafka's, on the loop of the worker.

Faust gives it a thread and a loop of its own, so that heartbeats go on while streams compute. But two threads of Python
take turns at one lock, every 5 ms at most, and each step of a fetch is such a turn: at 1,000 events/s an event waited
some 30 ms before it was taken in. Nothing computes for long on our loop, so heartbeats are in time without a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from aiokafka.errors import UnknownMemberIdError
from aiokafka.protocol.commit import OffsetCommitResponse_v3
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from aiokafka.structs import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP
from mode.utils.futures import maybe_async

if TYPE_CHECKING:
    from stream.kafka.consumer import PositionConsumer

__all__ = ["Fetcher", "hand_over_first"]

#: Requests whose answers say that we are a member and nothing changes. While the group rebalances, heartbeats are
#: answered by an error: who does not join again in time is removed, however regularly its heart beats.
_MEMBERSHIP: Final = (HeartbeatRequest, SyncGroupRequest)
#: How long the broker may keep a fetch that finds nothing.
_FETCH_MAX_WAIT_MS: Final = 100
#: Turns of the loop in which a fetch that was awaited is taken; behind a backlog it is not, and the next one is sent.
_HAND_OVER_TURNS: Final = 4
#: Kafka's error codes for an unknown member id and a fenced instance id.
_UNKNOWN: Final = frozenset({25, 82})


class Fetcher(AIOKafkaConsumerThread):
    """Renews our lease, reads committed records only, and says how far it has read."""

    consumer: PositionConsumer
    #: There is no thread whose end is to be waited for.
    wait_for_shutdown = False

    def __init__(self, consumer: PositionConsumer) -> None:
        super().__init__(consumer, loop=consumer.loop, thread_loop=consumer.loop, beacon=consumer.beacon)
        #: Partition → the next offset to be fetched, as of the records that were fetched last.
        self.reached: dict[TP, int] = {}
        #: How often we have sought, and how often we had when records were fetched last.
        self.seeks = self.fetched_after = 0
        #: Whether another worker has come under our instance id.
        self.replaced = False

    # -- a service like others, where mode starts and ends a thread ------------------------------------------

    async def start(self) -> None:
        """Start on the loop that runs."""
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
        """Call it here and now."""
        return await maybe_async(fun(*args, **kwargs))

    # -- aiokafka's consumer ----------------------------------------------------------------------------------

    def _create_worker_consumer(self, transport: Any) -> Any:
        """As Faust's, without the records of transactions that were aborted, and without long waits for new ones.

        A broker answers the requests of a connection one after the other, so what is asked behind a fetch waits for
        it: at Faust's 1.5 s a restart waited for seconds, and a partition that had news for others that had none.
        """
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = _FETCH_MAX_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Start the consumer, and renew the lease whenever its coordinator knows us."""
        await super().on_start()
        coordinator, clock = self._ensure_consumer()._coordinator, time.monotonic
        send = coordinator._send_req

        async def send_and_renew(request: Any) -> Any:
            if self.replaced and isinstance(request, JoinGroupRequest):
                raise UnknownMemberIdError  # Else we would replace the other, and it us, for ever.
            sent, lease = clock(), self.consumer.lease
            response = await send(request)
            if isinstance(request, _MEMBERSHIP) and not response.error_code:
                lease.renew(sent)
            # The group forgets a static member at the end of its session, or when another comes under its name.
            if coordinator._group_instance_id and lease.in_session and _is_unknown(response):
                self.replaced = True
            return response

        coordinator._send_req = send_and_renew
        hand_over_first(self._ensure_consumer()._fetcher)

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], timeout: float | None = None, max_records: int | None = None
    ) -> Mapping[TP, list[Any]]:
        # Faust's set changes while this waits for records, and aiokafka takes an empty one for all partitions.
        asked = frozenset(active_partitions or ())
        if not asked:
            return {}
        records = await super()._fetch_records(consumer, cast("set[TP]", asked), timeout, max_records)
        # Nothing was awaited since, so this is how far these records and those before them reach.
        self.fetched_after = self.seeks
        self.reached = {
            tp: at.position for tp in asked if (at := _fetch_state(consumer, tp)) is not None and at.has_valid_position
        }
        return records

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: it judges by Faust's own commits, which are switched off; the watchdog judges by ours."""

    async def seek_all(self, offsets: Mapping[TP, int]) -> None:
        """Seek between two fetches."""
        for tp, offset in offsets.items():
            self.seek(tp, offset)
        self.seeks += 1


def hand_over_first(fetcher: Any) -> None:
    """Have what a fetch brought taken before the next is sent.

    aiokafka sends the next at once, without the partitions whose records nobody has taken yet: what comes for those
    waits until that fetch has ended, for the news of the others or for ``_FETCH_MAX_WAIT_MS``.
    """
    fetch = fetcher._proc_fetch_request

    async def fetch_and_hand_over(*args: Any) -> bool:
        found: bool = await fetch(*args)
        if found:
            for waiter in fetcher._fetch_waiters:
                fetcher._notify(waiter)
            for _ in range(_HAND_OVER_TURNS):
                if not fetcher._records:
                    break
                await asyncio.sleep(0)
        return found

    fetcher._proc_fetch_request = fetch_and_hand_over


def _is_unknown(response: Any) -> bool:
    """Whether the coordinator does not know the member that asked: of a commit, for any partition."""
    if isinstance(response, OffsetCommitResponse_v3):
        return any(code in _UNKNOWN for _, partitions in response.topics for _, code in partitions)
    return getattr(response, "error_code", 0) in _UNKNOWN


def _fetch_state(consumer: Any, tp: TP) -> Any:
    assignment = consumer._subscription.subscription and consumer._subscription.subscription.assignment
    return assignment and assignment.state_value(TopicPartition(*tp))
