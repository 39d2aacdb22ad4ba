"""docs/capacity.md shows the present output of the command and the unit costs of the package."""

from __future__ import annotations

from tests.bench.capacity_page import PAGE, examples, refreshed


def test_page_is_what_the_command_writes_now() -> None:
    page = PAGE.read_text()
    assert refreshed(page) == page, "docs/capacity.md is out of date; run `python -m tests.bench.unit_costs`"


def test_page_has_examples_and_an_altered_one_is_noticed() -> None:
    page = PAGE.read_text()
    assert len(examples(page)) >= 3
    altered = page.replace("scores  ", "scores 9", 1)
    assert altered != page and refreshed(altered) == page
