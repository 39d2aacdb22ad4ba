"""Fields: check what a sender wrote, and say in an EventError why a record cannot be used.

The decoder handles ordinary values itself and calls these functions only for the others.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Final

from stream.decode.times import seconds_of
from stream.errors import EventError

__all__ = [
    "MILLISECONDS_FROM",
    "TIME_MAX",
    "USER_ID_CHARS_MAX",
    "Name",
    "Time",
    "checked_seconds",
    "oversized",
    "user_id",
]

#: An id or a name, and a time, as senders write them.
Name = str | int | None
Time = datetime | float | int | None
USER_ID_CHARS_MAX: Final = 256
#: Times above this are in milliseconds, the others in seconds: 1e11 s is the year 5138, 1e11 ms is 1973.
MILLISECONDS_FROM: Final = 1e11
#: The last event time that fits the 32 bits it is stored in: in the year 2106.
TIME_MAX: Final = 2**32 - 1


def user_id(user: Name) -> str:
    """The user id as text. Raises EventError if it cannot be used."""
    name = "" if user is None else str(user)
    if not name:
        raise EventError("user", "user id is missing, expected a string or a number")
    if len(name) > USER_ID_CHARS_MAX:
        raise EventError("user", f"user id has {len(name)} characters, expected at most {USER_ID_CHARS_MAX}")
    if "\0" in name:
        raise EventError("user", "user id holds a NUL, expected text")
    return name


def checked_seconds(time: Time, latest: float, zone: tzinfo = UTC) -> int:
    """An event time in whole seconds. Raises EventError if it is out of range or too far in the future.

    ``zone`` is that of times without one. A number may be seconds, milliseconds, microseconds or nanoseconds.
    """
    seconds = seconds_of(time, zone)
    if seconds is None or not 1 <= seconds <= TIME_MAX:
        raise EventError("timestamp", f"timestamp is {time!s:.40}, expected a time between 1970 and 2106")
    if seconds > latest:
        raise EventError(
            "future", f"timestamp is {seconds - latest:.0f} s past the allowed skew; check the sender's clock"
        )
    return seconds


def oversized(value: bytes, bytes_max: int) -> EventError:
    """The error of a value with more bytes than are allowed."""
    return EventError("oversized", f"value has {len(value)} bytes, expected at most {bytes_max}; see --event-bytes-max")
