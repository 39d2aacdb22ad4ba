"""Markup: text is escaped wherever it stands, also if a plain string is given in the place of an element."""

from __future__ import annotations

import pytest

from model_export.report.markup import Markup, details, document, figure, grid, note, section, table, verdict

HOSTILE = "<script>alert('x')</script>"


@pytest.mark.parametrize(
    "page",
    [
        document(HOSTILE, note(HOSTILE)),
        section(HOSTILE, note(HOSTILE)),
        section("title", HOSTILE),  # type: ignore[arg-type]
        verdict(HOSTILE, HOSTILE, [HOSTILE]),
        table(HOSTILE, [HOSTILE], [[HOSTILE]]),
        grid(figure(Markup("<svg></svg>"), HOSTILE)),
        details(HOSTILE, note(HOSTILE)),
    ],
)
def test_hostile_text_is_escaped_in_every_element(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_elements_without_content_are_empty() -> None:
    assert table("caption", ["head"], []) == section("title", Markup()) == grid() == details("title") == ""
