"""Text for the terminal: columns stay aligned, and no text from a record steers the terminal."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream.commands.console import aligned_table, printable, score_words
from tests.broker.examples import score_of

SCORE = score_of("ann", expected_next_purchase="2025-06-02")


@given(st.text())
def test_printable_text_has_no_control_characters_and_keeps_its_length(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)


def test_line_says_the_next_order_and_keeps_its_columns_where_there_is_none() -> None:
    never = msgspec.structs.replace(SCORE, expected_next_purchase=None)
    assert "next order 2025-06-02   " in score_words(SCORE)
    assert score_words(never).index("57 events") == score_words(SCORE).index("57 events")


@given(st.lists(st.tuples(st.text("ab", max_size=9), st.text("12", min_size=1, max_size=9)), min_size=1, max_size=5))
def test_columns_of_a_table_end_or_begin_at_the_same_place(rows: list[tuple[str, str]]) -> None:
    lines = aligned_table([("NAME", "N"), *rows], right_aligned={1})
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[-1] for line in lines] == ["N", *(number for _, number in rows)]
