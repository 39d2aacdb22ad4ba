"""Erasure: forget a user, and keep a marker without their id, so that nothing brings them back.

An erasure covers every event of the user up to its own source offset, and every event up to its own time. It does not
matter how late such an event comes, or from where: from a replay of the source, of the dead letters, of an old file. An
event that is newer than both begins a new user. So the erasures of a fetch may be applied before its events or between
them, and applying one again changes nothing.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from stream.errors import ContractError

__all__ = ["COMMAND_HEADER", "ERASE", "Erasure", "Erasures", "Marker", "marker_key", "read_marker"]

#: A record asks for an erasure if its key is the user id, it has no value, and this header holds :data:`ERASE`.
COMMAND_HEADER: Final = "valuestream.command"
ERASE: Final = b"erase"
#: A marker's key begins with NUL. No user id holds one, so no user is taken for a marker.
_PREFIX: Final = "\0"
#: 128 bits: among 10 million erased users, two have the same hash with a chance of 1.5e-25.
_HASH_BYTES: Final = 16
#: Version, offset, time. The offset stands where a packed user has the applied offset: so the one that has seen more is
#: found among two markers as it is among two users. Versions count from 129: a release without markers refuses them as
#: newer state.
_MARKER: Final = struct.Struct("<BqI")
_VERSION: Final = 129


class Erasure(NamedTuple):
    """A request to forget what ``user`` did up to source ``offset``, and up to event ``time`` in seconds."""

    user: str
    time: int
    offset: int


class Marker(NamedTuple):
    """What an erasure covers. It does not say which user was erased."""

    time: int
    offset: int

    def covers(self, time: int, offset: int) -> bool:
        """Whether an event of the erased user with this time and source offset must be dropped."""
        return time <= self.time or offset <= self.offset

    def packed(self) -> bytes:
        """The marker as a changelog value of 13 bytes.

        >>> read_marker(Marker(1_700_000_000, 7).packed())
        Marker(time=1700000000, offset=7)
        """
        return _MARKER.pack(_VERSION, self.offset, self.time)


def read_marker(value: bytes) -> Marker:
    """Read what :meth:`Marker.packed` wrote. Raises ContractError for another version."""
    if len(value) != _MARKER.size or value[0] != _VERSION:
        raise ContractError(
            f"erasure marker has version {value[0] if value else 'none'} and {len(value)} bytes, this build reads"
            f" version {_VERSION} of {_MARKER.size} bytes; run the release that wrote it"
        )
    _, offset, time = _MARKER.unpack(value)
    return Marker(time, offset)


def marker_key(user: str) -> str:
    """The changelog key of a user's marker: NUL and 22 characters.

    Only someone who knows the user id can tell that the marker belongs to that user.

    >>> len(marker_key("ann")), marker_key("ann") == marker_key("bob")
    (23, False)
    """
    digest = blake2b(user.encode(), digest_size=_HASH_BYTES, person=b"valuestream").digest()
    return _PREFIX + urlsafe_b64encode(digest).rstrip(b"=").decode()


class Erasures:
    """The markers of one partition. If nobody was erased it is empty and costs nothing."""

    def __init__(self) -> None:
        self._markers: dict[str, Marker] = {}

    def __len__(self) -> int:
        return len(self._markers)

    def marker_of(self, user: str) -> Marker | None:
        """The marker of this user, if they were ever erased."""
        return self._markers.get(marker_key(user))

    def covers(self, user: str, time: int, offset: int) -> bool:
        """Whether an event belongs to an erased user and is from before the erasure."""
        marker = self.marker_of(user)
        return marker is not None and marker.covers(time, offset)

    def note(self, erasure: Erasure) -> None:
        """Keep a marker of this erasure. An erasure that was noted before changes nothing."""
        self.put(marker_key(erasure.user), Marker(erasure.time, erasure.offset))

    def put(self, key: str, marker: Marker) -> None:
        """Set a marker by its key. If there is one already, the larger time and the larger offset are kept."""
        known = self._markers.get(key, marker)
        self._markers[key] = Marker(max(known.time, marker.time), max(known.offset, marker.offset))

    @staticmethod
    def is_marker(key: str) -> bool:
        """Whether a changelog key belongs to a marker and not to a user."""
        return key.startswith(_PREFIX)

    @staticmethod
    def any_marker(keys: Iterable[str]) -> bool:
        """Whether there is a marker among these keys. No user id holds the character that their keys begin with."""
        return _PREFIX in "".join(keys)
