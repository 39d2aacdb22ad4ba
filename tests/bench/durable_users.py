"""Durable users: reads the users of a system from where the system keeps them durably."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from tests.bench import counts
from tests.bench.counts import UserCounts
from tests.broker import harness

__all__ = ["DurableUsers", "in_changelog", "in_recovery_store", "quix_changelog"]

#: The users as they were kept, and some sizes and times.
DurableUsers = tuple[dict[str, UserCounts], dict[str, float]]


def in_changelog(
    read: Callable[[Mapping[str, bytes]], dict[str, UserCounts]], topic: Callable[[Settings], str] = changelog_topic
) -> Callable[[Settings], DurableUsers]:
    """A function that reads the users from the last values of a changelog topic."""

    def users(settings: Settings) -> DurableUsers:
        records = harness.read_topic(settings, topic(settings))
        about = {
            "last_changelog_at": max((r.timestamp for r in records), default=0) / 1000,
            "changelog_bytes": sum(len(r.value or b"") for r in records),
        }
        return read(harness.last_values(records)), about

    return users


def quix_changelog(settings: Settings) -> str:
    """Name that Quix Streams gives to the changelog of its default store."""
    return f"changelog__{settings.app_id}--{settings.events_topic}--default"


def in_recovery_store(settings: Settings) -> DurableUsers:
    """The users from the newest snapshots in the recovery store of Bytewax."""
    size = sum(file.stat().st_size for file in settings.data_dir.iterdir())
    return counts.of_bytewax(settings.data_dir), {"store_bytes": size}
