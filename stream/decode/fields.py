"""Fields: check what a sender wrote, and say in an EventError why a record cannot be used.

The decoder handles ordinary values itself and calls these functions only for the others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

from stream.decode.envelopes import Name, Time
from stream.errors import EventError

__all__ = [
    "MILLISECONDS_FROM",
    "TIME_MAX",
    "USER_ID_CHARS_MAX",
    "oversized",
    "seconds_of",
    "unreadable",
    "user_id",
]

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


def seconds_of(time: Time, latest: float) -> int:
    """An event time in whole seconds. Raises EventError if it is missing, out of range or too far in the future."""
    if isinstance(time, datetime):
        seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    elif time is None:
        raise EventError("timestamp", "timestamp is missing, expected ISO 8601 or seconds or milliseconds since 1970")
    else:
        # Integer division, because a huge integer does not fit into a float.
        seconds = time // 1000 if time > MILLISECONDS_FROM else time
    if not 1 <= seconds <= TIME_MAX:
        raise EventError("timestamp", f"timestamp is {time!s:.40}, expected a time between 1970 and 2106")
    if seconds > latest:
        raise EventError(
            "future", f"timestamp is {seconds - latest:.0f} s past the allowed skew; check the sender's clock"
        )
    return int(seconds)


def oversized(value: bytes, bytes_max: int) -> EventError:
    """The error of a value with more bytes than are allowed."""
    return EventError("oversized", f"value has {len(value)} bytes, expected at most {bytes_max}; see --event-bytes-max")


def unreadable(value: bytes, error: Exception) -> EventError:
    """The error of a value that could not be parsed, with the likely cause."""
    if value[:1] == b"\0" and len(value) > 5:
        return EventError(
            "confluent",
            "value starts with the magic byte of the Confluent wire format, expected plain JSON; "
            "no schema registry is configured, so send JSON without a registry serializer",
        )
    if isinstance(error, msgspec.ValidationError):
        return EventError("schema", str(error))
    if isinstance(error, RecursionError):
        return EventError("too_deep", "value is nested too deeply to read, expected a flat event")
    return EventError(
        "malformed", f"value is not JSON ({error}), expected one JSON object; check the producer's serializer"
    )
