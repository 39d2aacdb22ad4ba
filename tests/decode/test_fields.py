"""Fields: every form of event time and user id is read, and what cannot be used is a dead letter."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.decode.makers import (
    ISO,
    NOW,
    SKEW_S,
    TIME,
    Make,
    decode,
    reason,
    row,
    short,
)

# Time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "time",
    [
        *(TIME, float(TIME), TIME + 0.999, TIME * 1000, TIME * 1000 + 999, TIME * 1000.0),
        *(ISO, "2024-12-30T23:06:40", "2024-12-30 23:06:40", "2024-12-30T23:06:40.999Z"),
        *("2024-12-31T01:06:40+02:00", "2024-12-30T15:06:40-08:00"),
        *(str(TIME), TIME * 1_000_000, TIME * 10**9, f"{TIME}000"),
    ],
    ids=short,
)
def test_time_is_whole_seconds_utc_from_seconds_milliseconds_or_iso(preset: str, make: Make, time: Any) -> None:
    assert row(preset, make(time=time))["time"] == TIME


def test_time_without_a_zone_is_utc_in_any_local_zone(preset: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "America/New_York")
        time.tzset()
        assert row(preset, make(time="2024-12-30T23:06:40"))["time"] == TIME
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "time",
    [
        *(None, 0, -1, 0.5, -TIME, 1e300, -1e300, 10**20, 10**320, 10**4000, -(10**4000)),
        *("0001-01-01T00:00:00+14:00", "1900-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "2107-01-01T00:00:00Z"),
    ],
    ids=short,
)
def test_time_out_of_range_is_a_dead_letter(preset: str, make: Make, time: Any) -> None:
    assert reason(preset, make(time=time)) == "timestamp"


@pytest.mark.parametrize("time", ["", "yesterday", "2024-02-30T00:00:00Z", True, [], {"$date": 1}])
def test_time_of_another_type_or_form_is_a_dead_letter(preset: str, make: Make, time: Any) -> None:
    assert reason(preset, make(time=time)) == "timestamp"


def test_message_about_a_time_shows_it_and_the_remedy(preset: str, make: Make) -> None:
    (dead,) = decode(preset, make(time="soon")).dead
    assert dead.message == "timestamp is 'soon', expected ISO 8601, or seconds or milliseconds since 1970"


def test_time_ahead_of_our_clock_is_good_up_to_the_allowed_skew(preset: str, make: Make) -> None:
    assert row(preset, make(time=NOW + SKEW_S))["time"] == NOW + SKEW_S
    assert reason(preset, make(time=NOW + SKEW_S + 1)) == "future"
    out = decode(preset, make(time=NOW + SKEW_S + 60))
    assert out.dead[0].reason == "future"
    assert out.dead[0].message == "timestamp is 60 s past the allowed skew; check the sender's clock"


@pytest.mark.parametrize(
    ("time", "good"),
    [
        *(("2025-01-01T00:05:00Z", True), ("2025-01-01T00:04:59.999999Z", True), (int(NOW + SKEW_S), True)),
        # Times are kept, and compared, in whole seconds.
        *(("2025-01-01T00:05:00.999999Z", True), ("2025-01-01T00:05:01Z", False), (int(NOW + SKEW_S) + 1, False)),
        *(("2025-01-01T02:05:00+02:00", True), ("2025-01-01T02:05:01+02:00", False)),
    ],
    ids=short,
)
def test_bound_of_the_future_is_exact_to_the_second_for_every_form_of_time(
    preset: str, make: Make, time: Any, good: bool
) -> None:
    out = decode(preset, make(time=time))
    assert [d.reason for d in out.dead] == ([] if good else ["future"])


NOBODY = ["undefined", "Null", "NONE", "NaN", "(not set)", "[object Object]", "guest", "  ", "0", 0, -1, True, 1.5]


# User ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (None, "user id is missing, expected a string or a number"),
        ("", "user id is missing, expected a string or a number"),
        *((word, f"user id is {word!r}, which stands for nobody; expected an id; mend the sender") for word in NOBODY),
        ("x" * 257, "user id has 257 characters, expected at most 256"),
        (10**4000, "user id has 4001 characters, expected at most 256"),
        ("a\0b", "user id holds a NUL, expected text"),
    ],
    ids=short,
)
def test_unusable_user_id_is_a_dead_letter_that_says_so(preset: str, make: Make, user: Any, message: str) -> None:
    (dead,) = decode(preset, make(user=user)).dead
    assert (dead.reason, dead.message) == ("user", message)


def test_any_other_text_or_number_can_be_a_user_id(preset: str, make: Make) -> None:
    users = ["x" * 256, "😀", "ann@example.org", " ann", -17, 10**30]
    out = decode(preset, *(make(user=user, event_id=i) for i, user in enumerate(users)))
    assert out.batch.users == [str(user) for user in users]
