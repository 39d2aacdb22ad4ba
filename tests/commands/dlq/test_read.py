"""What a user may ask for: times, places, and selections of dead letters."""

from __future__ import annotations

import pytest

from stream.clock import ManualClock
from stream.commands.dlq.letters import read_letter
from stream.commands.dlq.read import Place, Selection, moment_ms
from stream.errors import ConfigError
from stream.iso_time import iso_milliseconds
from tests.commands.dlq.records import OURS, record


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2025-01-01T11:58:30.000Z"),
        ("2h", "2025-01-01T10:00:00.000Z"),
        ("7d", "2024-12-25T12:00:00.000Z"),
        ("2024-12-24", "2024-12-24T00:00:00.000Z"),
        ("2024-12-24T18:00:00.250Z", "2024-12-24T18:00:00.250Z"),
        ("2024-12-24T18:00:00+02:00", "2024-12-24T16:00:00.000Z"),
    ],
)
def test_moments_are_iso_times_or_so_long_ago(text: str, expected: str) -> None:
    assert iso_milliseconds(moment_ms(text, ManualClock(start=1_735_732_800))) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2w", "1969-12-31", "0001-01-01", "999999d", "9" * 40 + "d", "soon"]
)
def test_other_moments_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="expected an ISO time"):
        moment_ms(text, ManualClock(start=1_735_732_800))


@pytest.mark.parametrize("text", ["", "2", "2:", ":7", "2:-7", "2:7:1", "a:b", "2: 7", f"2:{'9' * 30}"])
def test_other_places_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="expected PARTITION:OFFSET"):
        Place.parse(text)


def test_selection_takes_from_since_to_before_until() -> None:
    letter = read_letter(record(OURS))
    at = letter.time_ms
    assert Selection(since_ms=at, until_ms=at + 1).takes(letter)
    assert not Selection(since_ms=at + 1).takes(letter)
    assert not Selection(until_ms=at).takes(letter)
    assert Selection(frozenset({"late", "currency"})).takes(letter)
    assert not Selection(frozenset({"late"})).takes(letter)
