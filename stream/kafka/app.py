"""App: builds the Faust app with the events topic, the table of users, and our consumer in place of Faust's.

Only ``fetches.py``, ``consumer.py``, ``fetcher.py`` and ``table.py`` in this folder override inner methods of Faust.
faust-streaming is pinned to the version that they were written for. If an upgrade changes what they rely on, tests in
``tests/broker`` fail. ``docs/faust-faults.md`` numbers the faults that the settings below work around.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import faust
from faust.exceptions import ConsistencyError
from faust.transport.drivers.aiokafka import Transport as AIOKafkaTransport
from yarl import URL

from stream.errors import ContractError
from stream.kafka.consumer import PositionConsumer
from stream.kafka.fetches import FetchingApp, OneEventPerFetch, Untouched
from stream.kafka.records import patch_aiokafka
from stream.kafka.table import UserStore, UserTable

__all__ = ["Source", "build_app"]

#: How many fetches may wait for the agent. Each holds up to ``fetch_records_max`` records.
_FETCHES_WAITING_MAX: Final = 8


class PositionTransport(AIOKafkaTransport):
    """Faust's aiokafka transport with :class:`PositionConsumer`."""

    Consumer = PositionConsumer


@dataclass(frozen=True, slots=True)
class Source:
    """The Faust app with its source topic and its table of users."""

    app: faust.App
    events: Any
    users: UserTable

    @property
    def consumer(self) -> PositionConsumer:
        """The app's consumer, once the app has one."""
        return cast("PositionConsumer", self.app.consumer)

    @property
    def recovery(self) -> Any:
        """Faust's recovery service of the tables."""
        return cast("Any", self.app.tables).recovery

    async def crashed(self) -> None:
        """Wait until Faust crashes, then raise its reason. A crashed app stays in the process and does nothing."""
        app = cast("Any", self.app)
        await app._crashed.wait()
        if isinstance(app.crash_reason, ConsistencyError):
            raise ContractError(
                f"the changelog topic of {app.conf.id} ends before what the local store has of it; expected the topic"
                " that the store comes from; bring that topic back, or begin anew with another --app-id"
            ) from app.crash_reason
        raise app.crash_reason

    @property
    def store(self) -> UserStore:
        """The local store of users."""
        return cast("UserStore", self.users.data)


def build_app(
    *,
    app_id: str,
    brokers: str,
    events_topic: str,
    partitions: int,
    data_dir: Path,
    fetch_records_max: int,
    session_timeout_s: float,
    lateness_s: float,
    currency: str,
    instance_id: str,
    standby_replicas: int = 1,
    credentials: Any = None,
) -> Source:
    """Make the Faust app; the agent is added by the caller."""
    patch_aiokafka()
    app = FetchingApp(
        app_id,
        broker=[URL(f"kafka://{host.strip()}") for host in brokers.split(",")],
        broker_credentials=credentials,
        broker_max_poll_records=fetch_records_max,
        # A short session and a stable instance id: a restarted worker gets its partitions back soon (fault 14b).
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=session_timeout_s / 4,
        broker_commit_interval=1.0,
        consumer_group_instance_id=instance_id or None,
        consumer_auto_offset_reset="earliest",  # Fault 14.
        # One Faust event for each fetch: two thirds of the cost of an event is Faust's loop around it.
        ConsumerScheduler=OneEventPerFetch,
        stream_buffer_maxsize=_FETCHES_WAITING_MAX,
        stream_wait_empty=True,
        topic_partitions=partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=standby_replicas,
        datadir=str(data_dir),
        web_enabled=False,  # Fault 22.
        store="memory://",
        autodiscover=False,
    )
    app.transport = PositionTransport(app.conf.broker_consumer, app, loop=None)
    topic_options: dict[str, Any] = {"schema": Untouched(), "key_type": bytes, "value_type": bytes}
    changelog = app.topic(
        f"{app_id}-users-changelog", partitions=partitions, internal=True, acks=False, allow_empty=True, **topic_options
    )
    users = UserTable(
        app,
        name="users",
        key_type=bytes,
        value_type=bytes,
        partitions=partitions,
        changelog_topic=changelog,
        # With a buffer of 1, Faust goes on reading our own changelog after recovery.
        recovery_buffer_size=2,
        # A standby that takes a partition over lacks whatever still waits in this buffer.
        standby_buffer_size=1,
    )
    users.lateness_s, users.currency = lateness_s, currency
    app.tables.add(users)
    return Source(app, app.topic(events_topic, **topic_options), users)
