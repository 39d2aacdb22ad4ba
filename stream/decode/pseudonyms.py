"""Pseudonym: user ids become keyed hashes before anything is kept of them, so that without the key nobody is known.

A pseudonym is ``p``, the id of the key, a colon, and HMAC-SHA-256 of the user id (RFC 2104) cut to 128 bits, which that
RFC allows (section 5). It is the same for the same id and key, so state, scores and erasure work as with the ids.
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

#: As long as the hash, as RFC 2104 (section 3) advises.
_KEY_BYTES_MIN: Final = 32
#: 32 random bytes have fewer distinct values with a chance below 1e-10; words and repeated patterns have fewer.
_DISTINCT_MIN: Final = 20
_HASH_BYTES: Final = 16
#: What SHA-256 takes in at once; an HMAC fills the key up to it.
_BLOCK_BYTES: Final = 64
_KEY_ID: Final = re.compile(r"[0-9A-Za-z]{1,8}")
#: Users whose pseudonym is remembered, as a hash costs more than the rest of an event: some 20 MB.
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
        # The two hashes of an HMAC with the key already in them: copying these costs half of copying an ``hmac.HMAC``.
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))
        #: The pseudonym of a user id.
        self.pseudonym_of = lru_cache(_REMEMBERED_MAX)(self._pseudonym_of)

    @property
    def prefix(self) -> str:
        """What every pseudonym of this key begins with."""
        return self._prefix

    def _pseudonym_of(self, user: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(user.encode())
        outer.update(inner.digest())
        return self._prefix + outer.digest()[:_HASH_BYTES].hex()


def pseudonyms_of(secret: str, key_id: str) -> Pseudonyms | None:
    """Pseudonyms by a key written as hex or base64; None where there is no key. ConfigError for a weak one."""
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
            "pseudonym key is neither hex nor base64, expected one of both; make one with `openssl rand -hex 32`"
            " and set VALUESTREAM_PSEUDONYM_KEY"
        ) from None


def check_key(users: Sequence[str], pseudonyms: Pseudonyms | None) -> None:
    """Refuse the state of another key: the same user would be two. ``users`` is who a partition holds.

    One of them tells, as what was written with one key was never added to with another. Raises ContractError.
    """
    if not users:
        return
    found = _PSEUDONYM.fullmatch(users[0])
    expected = pseudonyms.prefix if pseudonyms else ""
    if (f"p{found[1]}:" if found else "") != expected:
        raise ContractError(
            f"the state holds {_said(found[1] if found else None)}, this worker has"
            f" {_said(pseudonyms.prefix[1:-1] if pseudonyms else None)}; set the pseudonym key and id that wrote it,"
            " or give a new --app-id, under which the state is made anew from the events that are still there"
        )


def _said(key_id: str | None) -> str:
    return "user ids as they are" if key_id is None else f"pseudonyms of key id {key_id!r}"
