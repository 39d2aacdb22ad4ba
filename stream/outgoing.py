"""Outgoing: one Kafka record that is to be sent, before any client has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["Headers", "Outgoing", "OutgoingLike"]

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]
#: An :class:`Outgoing`, or a plain tuple with the same fields: Python makes that in a fraction of the time.
OutgoingLike: TypeAlias = tuple[bytes | None, bytes | None, Headers, int | None]


class Outgoing(NamedTuple):
    """One record to be sent. A ``timestamp_ms`` of None stands for the time of sending."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None
