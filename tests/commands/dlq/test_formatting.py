"""Dead letters as text: bounded, escaped, and without personal data unless the user asked for it."""

from __future__ import annotations

from stream.commands.dlq.formatting import (
    grouped,
    groups_table,
    letter_facts,
    letter_facts_with_event,
    letter_line,
    letter_words,
)
from stream.commands.dlq.letters import Letter, read_letter
from tests.commands.dlq.records import OURS, record


def letters_of(*reasons: str) -> list[Letter]:
    return [
        read_letter(record([("valuestream.error.reason", reason.encode())], offset=i))
        for i, reason in enumerate(reasons)
    ]


def test_number_of_groups_is_bounded_when_reasons_are_made_up() -> None:
    groups = grouped(letters_of(*(f"r{i}" for i in range(1_000))))
    assert len(groups) == 201
    assert (groups[0].reason, groups[0].count) == ("(others)", 800)


def test_lines_facts_and_tables_say_nothing_of_the_event() -> None:
    letter = read_letter(record([("mail", b"secret-h"), *OURS], key=b"secret-k", value=b"secret-v"))
    for shown in (letter_line(letter), str(letter_facts(letter)), str(groups_table(grouped([letter])))):
        assert "secret" not in shown
        assert "currency" in shown


def test_long_values_are_cut_unless_full_and_bytes_are_escaped() -> None:
    letter = read_letter(record([*[("x", b"")] * 60, *OURS], key=b"\xff\x1b[2J", value=b"v" * 10_000))
    words = letter_words(letter, full=False)
    assert "6,000 more characters" in words
    assert "10 more headers" in words
    assert "\\xff\\x1b[2J" in words
    assert "v" * 10_000 in letter_words(letter, full=True)
    assert letter_facts_with_event(letter, full=True)["key"] == "\\xff\x1b[2J"
