"""Events: names are looked up in lower case."""

from __future__ import annotations

from stream.contract.events import SEGMENT_NAMES


def test_segment_names_are_written_in_lower_case() -> None:
    assert all(name == name.lower() for name in SEGMENT_NAMES)
