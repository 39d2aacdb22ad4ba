"""ISO text of times is what the standard library writes."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from stream.iso_time import iso_date, iso_milliseconds, iso_seconds

#: Up to the last second of the year 9999.
SECONDS = st.integers(0, 253_402_300_799)


@given(SECONDS, st.integers(0, 999))
def test_iso_text_is_that_of_datetime(seconds: int, milliseconds: int) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    assert iso_seconds(seconds) == at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert iso_date(seconds // 86_400) == at.strftime("%Y-%m-%d")
    text = iso_milliseconds(seconds * 1000 + milliseconds)
    assert text == at.replace(microsecond=milliseconds * 1000).isoformat(timespec="milliseconds")[:-6] + "Z"
