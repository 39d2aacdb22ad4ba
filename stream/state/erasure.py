"""Erasure: a user is forgotten, and a marker without their id stays, so that nothing brings them back.

An erasure covers every event of the user up to its own source offset, and every event up to its time, however late
and by whatever way that comes: a replay of the source, of the dead letters, of an old file. What is newer than both
begins a new user. So it does not matter whether the erasures of a fetch are taken before or between its events, and
taking one again changes nothing.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from stream.errors import ContractError

__all__ = ["COMMAND_HEADER", "ERASE", "Erasure", "Erasures", "Marker", "marker_key", "read_marker"]

#: A record with the user's id as its key, no value, and this header with :data:`ERASE` asks for an erasure.
COMMAND_HEADER: Final = "valuestream.command"
ERASE: Final = b"erase"
#: No user id holds a NUL, so no user is taken for a marker.
_PREFIX: Final = "\0"
#: 128 bits: among 10 million erased users two are alike with a chance of 1.5e-25.
_HASH_BYTES: Final = 16
#: Version, offset, time. The offset stands where a packed user has its applied offset, so that of two markers too
#: the one that has seen more is known. Versions count from 129: a release without markers refuses them as newer state.
_MARKER: Final = struct.Struct("<BqI")
_VERSION: Final = 129


class Erasure(NamedTuple):
    """A request: forget what ``user`` did up to source ``offset``, and up to event ``time`` in seconds."""

    user: str
    time: int
    offset: int


class Marker(NamedTuple):
    """What an erasure covers, without whose it was."""

    time: int
    offset: int

    def covers(self, time: int, offset: int) -> bool:
        """Whether an event of the erased user, of this time and source offset, is to be dropped."""
        return time <= self.time or offset <= self.offset

    def packed(self) -> bytes:
        """As a changelog value of 13 bytes.

        >>> read_marker(Marker(1_700_000_000, 7).packed())
        Marker(time=1700000000, offset=7)
        """
        return _MARKER.pack(_VERSION, self.offset, self.time)


def read_marker(value: bytes) -> Marker:
    """The reverse of :meth:`Marker.packed`. Raises ContractError for another version."""
    if len(value) != _MARKER.size or value[0] != _VERSION:
        raise ContractError(
            f"erasure marker has version {value[0] if value else 'none'} and {len(value)} bytes, this build reads"
            f" version {_VERSION} of {_MARKER.size} bytes; run the release that wrote it"
        )
    _, offset, time = _MARKER.unpack(value)
    return Marker(time, offset)


def marker_key(user: str) -> str:
    """The changelog key of a user's marker: NUL and 22 characters, which say whose it is only to who knows the id.

    >>> len(marker_key("ann")), marker_key("ann") == marker_key("bob")
    (23, False)
    """
    digest = blake2b(user.encode(), digest_size=_HASH_BYTES, person=b"valuestream").digest()
    return _PREFIX + urlsafe_b64encode(digest).rstrip(b"=").decode()


class Erasures:
    """The markers of one partition; empty, and then without cost, where nobody was erased."""

    def __init__(self) -> None:
        self._markers: dict[str, Marker] = {}

    def __len__(self) -> int:
        return len(self._markers)

    def marker_of(self, user: str) -> Marker | None:
        """The marker of this user, if they were ever erased."""
        return self._markers.get(marker_key(user))

    def covers(self, user: str, time: int, offset: int) -> bool:
        """Whether an event is one of an erased user, from before the erasure."""
        marker = self.marker_of(user)
        return marker is not None and marker.covers(time, offset)

    def note(self, erasure: Erasure) -> None:
        """Keep a marker of this erasure; one that was noted before changes nothing."""
        self.put(marker_key(erasure.user), Marker(erasure.time, erasure.offset))

    def put(self, key: str, marker: Marker) -> None:
        """Set a marker by its key, as far as it covers more than the one that is there."""
        known = self._markers.get(key, marker)
        self._markers[key] = Marker(max(known.time, marker.time), max(known.offset, marker.offset))

    @staticmethod
    def is_marker(key: str) -> bool:
        """Whether a changelog key is that of a marker, not that of a user."""
        return key.startswith(_PREFIX)

    @staticmethod
    def any_marker(keys: Iterable[str]) -> bool:
        """Whether there is a marker among these keys: their first character is in no user's id."""
        return _PREFIX in "".join(keys)
