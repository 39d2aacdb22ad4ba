"""docs/capacity.md says what the command says, and its figures are those that come with the package."""

from __future__ import annotations

from tests.bench.capacity_page import PAGE, examples, refreshed


def test_the_page_is_as_the_command_would_write_it_now() -> None:
    page = PAGE.read_text()
    assert refreshed(page) == page, "docs/capacity.md is out of date; run `python -m tests.bench.unit_costs`"


def test_the_page_has_examples_and_an_altered_one_is_noticed() -> None:
    page = PAGE.read_text()
    assert len(examples(page)) >= 3
    altered = page.replace("scores  ", "scores 9", 1)
    assert altered != page and refreshed(altered) == page
