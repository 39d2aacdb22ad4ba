"""Pseudonyms: replace user ids by keyed hashes before anything is stored, so that without the key nobody is known.

A pseudonym is ``p``, the id of the key, a colon, and the HMAC-SHA-256 of the user id (RFC 2104), cut to 128 bits as
section 5 of that RFC allows. The same id and key always give the same pseudonym, so state, scores and erasure work as
they do with the ids.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

from stream.errors import ConfigError, ContractError

__all__ = ["Pseudonyms", "check_key", "pseudonyms_of"]

#: A key is at least as long as the hash, as section 3 of RFC 2104 advises.
_KEY_BYTES_MIN: Final = 32
#: 32 random bytes have fewer distinct values with a chance below 1e-10. Words and repeated patterns do have fewer.
_DISTINCT_MIN: Final = 20
_HASH_BYTES: Final = 16
#: SHA-256 reads blocks of this size; an HMAC pads the key to one block.
_BLOCK_BYTES: Final = 64
_KEY_ID: Final = re.compile(r"[0-9A-Za-z]{1,8}")
#: Pseudonyms are remembered for this many users (about 20 MB), because a hash costs more than the rest of an event.
_REMEMBERED_MAX: Final = 65_536
_PSEUDONYM: Final = re.compile(r"p([0-9A-Za-z]{1,8}):[0-9a-f]{32}")


class Pseudonyms:
    """Makes pseudonyms with one key.

    >>> Pseudonyms(bytes(range(32)), "1").pseudonym_of("ann")
    'p1:0d1f12b8196c52b0db44a5429c832302'
    """

    def __init__(self, key: bytes, key_id: str) -> None:
        self._prefix = f"p{key_id}:"
        block = (sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
        # The two hashes of an HMAC, with the key already in them. For ids of 10 to 40 characters a pseudonym takes
        # 0.85 µs with copies of these and 1.9 µs with ``hmac.digest`` (Python 3.11.7, OpenSSL 3.0.19; least of 15 runs
        # over 20,000 users). Copying an ``hmac.HMAC`` costs twice as much as copying these.
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))
        #: User id → pseudonym.
        self.pseudonym_of = lru_cache(_REMEMBERED_MAX)(self._pseudonym_of)

    @property
    def prefix(self) -> str:
        """The beginning of every pseudonym of this key."""
        return self._prefix

    def _pseudonym_of(self, user: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(user.encode())
        outer.update(inner.digest())
        return self._prefix + outer.digest()[:_HASH_BYTES].hex()


def pseudonyms_of(secret: str, key_id: str) -> Pseudonyms | None:
    """Pseudonyms with a key that is written as hex or base64; None if there is no key.

    Raises ConfigError for a weak or unreadable key, and for a key id that is not 1 to 8 letters and digits.
    """
    if not secret:
        return None
    if not _KEY_ID.fullmatch(key_id):
        raise ConfigError(f"pseudonym key id is {key_id!r}, expected 1 to 8 letters and digits; set --pseudonym-key-id")
    key = _key_bytes(secret)
    if len(key) < _KEY_BYTES_MIN or len(set(key)) < _DISTINCT_MIN:
        raise ConfigError(
            f"pseudonym key has {len(key)} bytes of {len(set(key))} different values, expected at least"
            f" {_KEY_BYTES_MIN} random bytes; make one with `openssl rand -hex 32` and set VALUESTREAM_PSEUDONYM_KEY"
        )
    return Pseudonyms(key, key_id)


def _key_bytes(secret: str) -> bytes:
    try:
        return bytes.fromhex(secret)
    except ValueError:
        pass
    try:
        return b64decode(secret, validate=True)
    except binascii.Error:
        raise ConfigError(
            "pseudonym key is neither hex nor base64, expected one of them; make one with `openssl rand -hex 32`"
            " and set VALUESTREAM_PSEUDONYM_KEY"
        ) from None


def check_key(users: Sequence[str], pseudonyms: Pseudonyms | None) -> None:
    """Refuse a state that was made with another key: it would hold the same user twice.

    ``users`` are all users of the partition. The first one is enough to tell: nothing is ever added with one key to
    what was written with another. Raises ContractError.
    """
    if not users:
        return
    pseudonym = _PSEUDONYM.fullmatch(users[0])
    theirs = pseudonym[1] if pseudonym else None
    ours = pseudonyms.prefix[1:-1] if pseudonyms else None
    if theirs != ours:
        raise ContractError(
            f"the state holds {_described(theirs)}, this worker has {_described(ours)};"
            " set the pseudonym key and id that wrote it,"
            " or give a new --app-id, under which the state is made anew from the events that are still there"
        )


def _described(key_id: str | None) -> str:
    return "user ids as they are" if key_id is None else f"pseudonyms of key id {key_id!r}"
