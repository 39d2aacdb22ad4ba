"""Times: the moment that an event names, however its sender wrote it, in whole seconds since 1970 (UTC).

Numbers are seconds, milliseconds, microseconds or nanoseconds; their size says which. Text is a number, ISO 8601 in
its usual variants, RFC 2822, or what JavaScript's ``Date`` prints. Formats in which day and month can be confused are
not read.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import parsedate_to_datetime
from typing import Any, Final

__all__ = ["seconds_of"]

#: Numbers from here on are milliseconds: 1e11 s is the year 5138, 1e11 ms is 1973. The steps after it are alike.
_MILLISECONDS_FROM: Final = 10**11
_PER_SECOND: Final = ((10**17, 10**9), (10**14, 10**6), (_MILLISECONDS_FROM, 10**3))
#: Longer text is no time: JavaScript's longest, with the name of its zone, has some 80 characters.
_TEXT_MAX: Final = 100
_NUMBER: Final = re.compile(r"[+-]?\d{1,20}(\.\d*)?")
#: ``UTC`` behind the time, which ``fromisoformat`` does not know.
_ZONE_NAME: Final = re.compile(r"\s*(UTC|GMT|Z)$", re.IGNORECASE)
_LEAP_SECOND: Final = re.compile(r"(?<=\d\d:\d\d):60|(?<=T\d{4})60")
_JAVASCRIPT: Final = re.compile(
    r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d{4}) (\d\d:\d\d:\d\d) (?:GMT|UTC)([+-]\d\d:?\d\d)?(?: \(.*\))?"
)
_ZONE_AND_OFFSET: Final = re.compile(r"(GMT|UTC)\s*[+-]", re.IGNORECASE)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def seconds_of(value: Any, zone: tzinfo = UTC) -> int | None:
    """Seconds since 1970 of a time that a sender wrote. None if it cannot be read.

    ``zone`` is that of times without one.

    >>> [seconds_of(t) for t in (1_793_534_400, "1793534400000", 1_793_534_400_000_000_000)]
    [1793534400, 1793534400, 1793534400]
    >>> seconds_of("2026-11-01 12:00:00 UTC") == seconds_of("Sun Nov 01 2026 13:00:00 GMT+0100 (CET)")
    True
    >>> seconds_of("soon"), seconds_of(True), seconds_of("01/11/2026")
    (None, None, None)
    """
    if isinstance(value, datetime):
        return _since_epoch(value, zone)
    if isinstance(value, str):
        return _of_text(value.strip(), zone)
    if isinstance(value, int) and not isinstance(value, bool):
        return _of_number(value)
    if isinstance(value, float) and math.isfinite(value):
        return _of_number(int(value))
    return None


def _of_number(number: int) -> int:
    for least, per_second in _PER_SECOND:
        if number >= least:
            return number // per_second
    return number


def _of_text(text: str, zone: tzinfo) -> int | None:
    if len(text) > _TEXT_MAX:
        return None
    # Eight digits are a date: as seconds they would lie in 1970.
    if _NUMBER.fullmatch(text) and not re.fullmatch(r"\d{8}", text):
        return _of_number(int(text.partition(".")[0]))
    read, n_leaps = _LEAP_SECOND.subn(lambda found: found[0].replace("60", "59"), text)
    for reader in (_iso, _javascript, _rfc_2822):
        moment = reader(read)
        if moment is not None:
            seconds = _since_epoch(moment, zone)
            return None if seconds is None else seconds + n_leaps
    return None


def _iso(text: str) -> datetime | None:
    """ISO 8601: basic or extended, without seconds, with any fraction, with an offset in hours, a date alone."""
    without_name = _ZONE_NAME.sub("", text)
    try:
        moment = datetime.fromisoformat(without_name.replace("/", "-"))
    except ValueError:
        return None
    return moment if without_name == text or moment.tzinfo else moment.replace(tzinfo=UTC)


def _javascript(text: str) -> datetime | None:
    """As ``String(new Date())`` prints it."""
    found = _JAVASCRIPT.fullmatch(text)
    if found is None:
        return None
    month, day, year, clock, offset = found.groups()
    return _rfc_2822(f"{day} {month} {year} {clock} {(offset or '+0000').replace(':', '')}")


def _rfc_2822(text: str) -> datetime | None:
    # The standard library would read GMT+0100 as GMT.
    if not any(c.isalpha() for c in text) or _ZONE_AND_OFFSET.search(text):
        return None
    try:
        return parsedate_to_datetime(text)
    except Exception:  # It has raised errors of many types for text that is no date.
        return None


def _since_epoch(moment: datetime, zone: tzinfo) -> int | None:
    try:
        since = (moment if moment.tzinfo else moment.replace(tzinfo=zone)) - _EPOCH
    except OverflowError:
        return None
    return since // timedelta(seconds=1)
