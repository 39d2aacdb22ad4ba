"""Position: what the metadata of a commit says, and what is made of a commit that another tool wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.checkpoint.position import Position

POSITIONS = st.builds(
    Position,
    offset=st.integers(0, 2**62),
    watermark=st.integers(0, 2**32 - 1),
    arrival=st.integers(0, 10**12).map(lambda ms: ms / 1000),
)


@given(POSITIONS)
def test_position_reads_back_from_its_metadata(position: Position) -> None:
    assert Position.read(position.offset, position.metadata()) == position


@pytest.mark.parametrize(
    "metadata",
    [
        *("", "v1", "v1:", "v1:7", "v1:7:", "v1:x:y", "v1::", "v1:1:nan", "v1:1:inf", "v1:-1:1.000", "v1:1:1.000:"),
        *("v2:1700000000:1.500", "v1:١:1.000", "V1:1:1.000", "x" * 4_096, "v1:" + "9" * 5_000 + ":1.000"),
    ],
    ids=lambda m: f"{m!r:.24}",
)
def test_commit_of_another_tool_has_an_offset_but_no_watermark_and_no_arrival(metadata: str) -> None:
    assert Position.read(7, metadata) == Position(7)


@given(st.text(max_size=20), st.sampled_from(["", "v1:", "v1:17:"]))
def test_any_metadata_is_read_as_a_position(metadata: str, head: str) -> None:
    position = Position.read(7, head + metadata)
    assert (position.offset, position.watermark >= 0, position.arrival >= 0) == (7, True, True)
