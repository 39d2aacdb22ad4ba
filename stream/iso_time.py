"""ISO 8601 text for times in UTC. It needs only the standard library, so every other module may import it."""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from typing import Final

__all__ = ["iso_date", "iso_milliseconds", "iso_seconds"]

#: The proleptic Gregorian ordinal of 1970-01-01, which is day 0 here.
_EPOCH: Final = date(1970, 1, 1).toordinal()
_DAY_S: Final = 86_400


@lru_cache(maxsize=4096)
def iso_date(day: int) -> str:
    """The date of a day since 1970-01-01. It is cached, because callers ask for few days, and often.

    >>> iso_date(19_675)
    '2023-11-14'
    """
    return date.fromordinal(_EPOCH + day).isoformat()


@lru_cache(maxsize=4096)
def iso_seconds(seconds: int) -> str:
    """Whole seconds since 1970 as text. It is cached, because the users of a batch share few seconds.

    >>> iso_seconds(1_735_689_600)
    '2025-01-01T00:00:00Z'
    """
    day, second = divmod(seconds, _DAY_S)
    return f"{iso_date(day)}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"


def iso_milliseconds(time_ms: int) -> str:
    """Milliseconds since 1970 as text.

    >>> iso_milliseconds(1_735_689_600_250)
    '2025-01-01T00:00:00.250Z'
    """
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{iso_seconds(seconds).removesuffix('Z')}.{milliseconds:03d}Z"
