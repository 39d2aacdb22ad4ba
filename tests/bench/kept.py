"""Where each system keeps its users durably, and what they come to there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stream.kafka.topics import changelog_topic
from stream.settings import Settings
from tests.bench import counts
from tests.bench.counts import UserCounts
from tests.broker import harness

__all__ = ["Kept", "in_changelog", "in_recovery_store", "quix_changelog"]

#: Users as they were kept, and sizes and times worth a note.
Kept = tuple[dict[str, UserCounts], dict[str, float]]


def in_changelog(
    read: Callable[[Mapping[str, bytes]], dict[str, UserCounts]], topic: Callable[[Settings], str] = changelog_topic
) -> Callable[[Settings], Kept]:
    """The last values of a changelog topic."""

    def kept(settings: Settings) -> Kept:
        records = harness.read_topic(settings, topic(settings))
        about = {
            "last_changelog_at": max((r.timestamp for r in records), default=0) / 1000,
            "changelog_bytes": sum(len(r.value or b"") for r in records),
        }
        return read(harness.last_values(records)), about

    return kept


def quix_changelog(settings: Settings) -> str:
    """Name that Quix Streams gives to the changelog of its default store."""
    return f"changelog__{settings.app_id}--{settings.events_topic}--default"


def in_recovery_store(settings: Settings) -> Kept:
    """The newest snapshots in the recovery store of Bytewax."""
    size = sum(file.stat().st_size for file in settings.data_dir.iterdir())
    return counts.of_bytewax(settings.data_dir), {"store_bytes": size}
