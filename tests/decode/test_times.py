"""Times: every usual way to write a moment is read, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.decode.times import seconds_of
from tests.decode.makers import short

#: 2026-11-01T12:00:00Z.
NOON = 1_793_534_400
#: Ways to write it.
WAYS: list[Any] = [
    *(NOON, NOON + 0.9, NOON * 1000, NOON * 1000 + 999, NOON * 1000.0, NOON * 10**6, NOON * 10**9),
    *(str(NOON), f"{NOON}.5", str(NOON * 1000), str(NOON * 10**9), f" {NOON} "),
    *("2026-11-01T12:00:00Z", "2026-11-01T12:00:00z", "2026-11-01T12:00Z", "2026-11-01 12:00:00", "20261101T120000Z"),
    *("2026-11-01T12:00:00.123456789Z", "2026-11-01T12:00:00,5Z", "2026/11/01 12:00:00"),
    *("2026-11-01T12:00:00+00", "2026-11-01T13:00:00+0100", "2026-11-01T04:00:00.000-08:00", "2026-W44-7T12:00:00Z"),
    *("2026-11-01 12:00:00 UTC", "2026-11-01 12:00:00 GMT", "2026-11-01 12:00:00 +00:00"),
    *("Sun, 01 Nov 2026 12:00:00 GMT", "Sun, 1 Nov 2026 13:00:00 +0100", "1 Nov 2026 12:00:00 +0000"),
    *("Sun Nov 01 2026 12:00:00 GMT+0000 (UTC)", "Sun Nov 01 2026 13:00:00 GMT+0100 (Central European Time)"),
    "Sun Nov 01 2026 13:00:00 GMT+01:00",
    datetime(2026, 11, 1, 12, tzinfo=UTC),
]
#: What is no time.
OTHERS: list[Any] = [
    *("", " ", "soon", "12:00", "01/11/2026", "11/01/2026 12:00", "2026-13-01", "2026-02-30T00:00:00Z", "Nov", "now"),
    *(None, True, False, [], {}, [NOON], float("inf"), float("nan"), "NaN", "9" * 200, "2026-11-01T25:00Z"),
    *("Sun Nov 01 2026 12:00:00 GMT+9999 (nowhere)", "Sun, 1 Nov 2026 12:00:00 GMT+1"),
]


@pytest.mark.parametrize("written", WAYS, ids=short)
def test_every_usual_way_to_write_a_moment_is_that_moment(written: Any) -> None:
    assert seconds_of(written) == NOON


@pytest.mark.parametrize("written", OTHERS, ids=short)
def test_what_is_no_time_is_none(written: Any) -> None:
    assert seconds_of(written) is None


def test_date_is_the_beginning_of_its_day() -> None:
    midnight = NOON - 12 * 3600
    assert [seconds_of(day) for day in ("2026-11-01", "20261101", "2026/11/01", "2026-11-01Z")] == [midnight] * 4


def test_leap_second_is_the_first_second_after_it() -> None:
    expected = datetime(2017, 1, 1, tzinfo=UTC).timestamp()
    for leap in ("2016-12-31T23:59:60Z", "2016-12-31T23:59:60.5Z", "Sat, 31 Dec 2016 23:59:60 GMT"):
        assert seconds_of(leap) == expected


def test_zone_is_only_that_of_times_without_one() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for naive in ("2026-11-01 12:00:00", "2026-11-01T12:00", "Sun, 1 Nov 2026 12:00:00", datetime(2026, 11, 1, 12)):
        assert seconds_of(naive, berlin) == NOON - 3600
        assert seconds_of(naive) == NOON
    for aware in ("2026-11-01T12:00:00Z", "2026-11-01 12:00:00 UTC", "Sun, 1 Nov 2026 12:00:00 GMT", NOON):
        assert seconds_of(aware, berlin) == NOON


@given(
    st.datetimes(datetime(1973, 3, 4), datetime(2106, 1, 1)),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_moment_is_the_same_however_it_is_written(moment: datetime, zone: timezone) -> None:
    moment = moment.replace(tzinfo=zone)
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    written = [
        *(exact // 10**6, exact // 1000, exact * 1000, str(exact // 1000), str(exact // 10**6)),
        *(moment, moment.isoformat(), moment.isoformat(" "), moment.strftime("%Y%m%dT%H%M%S%z")),
        *(format_datetime(moment), moment.strftime("%a %b %d %Y %H:%M:%S GMT%z (Somewhere)")),
    ]
    if exact >= 10**14:
        written.append(exact)
    assert {seconds_of(way) for way in written} == {exact // 10**6}


@given(st.one_of(st.text(), st.text("0123456789-+:TZ ., GMTJanSu/()"), st.integers(), st.floats(), st.datetimes()))
def test_anything_gives_whole_seconds_or_none(anything: Any) -> None:
    assert type(seconds_of(anything)) in (int, type(None))
