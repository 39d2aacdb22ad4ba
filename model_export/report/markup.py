"""Markup: makes the HTML elements of the page from the templates, which escape all text that they are given.

A ``Markup`` is inserted as it is, any other string is escaped. So a name that holds HTML is shown, not obeyed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = [
    "Markup",
    "code",
    "details",
    "document",
    "figure",
    "grid",
    "listing",
    "note",
    "paragraph",
    "section",
    "svg",
    "table",
    "verdict",
]

_TEMPLATES: Final = Environment(
    loader=PackageLoader("model_export.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ELEMENTS: Final = _TEMPLATES.get_template("elements.html").module


def document(title: str, *parts: Markup) -> str:
    """A whole page that asks for nothing outside itself."""
    return _TEMPLATES.get_template("page.html").render(title=title, parts=parts)


def section(title: str, *parts: Markup) -> Markup:
    """A titled part of the page; empty if all its parts are empty."""
    return _element("section", title, parts) if any(parts) else Markup()


def verdict(task: str, word: str, sentences: Sequence[str]) -> Markup:
    """The headline of a task with its verdict: ``better``, ``worse`` or other words."""
    kind = word if word in ("better", "worse") else "even"
    return _element("verdict", task, word, kind, sentences)


def paragraph(text: str) -> Markup:
    """A paragraph."""
    return _element("paragraph", text)


def note(text: str) -> Markup:
    """A paragraph in small print."""
    return _element("note", text)


def listing(text: str) -> Markup:
    """Lines of text that keep their line breaks."""
    return _element("listing", text)


def code(text: str) -> Markup:
    """A command to run."""
    return _element("code", text)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table that scrolls by itself if it is wider than the screen; empty if it has no rows."""
    return _element("table", caption, head, rows) if rows else Markup()


def figure(drawing: Markup, caption: str) -> Markup:
    """A drawing with a caption. The drawing carries its own alternative text."""
    return _element("figure", drawing, caption)


def svg(view: str, text: str, shapes: Markup) -> Markup:
    """An SVG element that shows ``shapes``; ``text`` is the alternative for readers who cannot see it.

    ``shapes`` includes the closing tag.
    """
    return _element("svg", view, text, shapes)


def grid(*figures: Markup) -> Markup:
    """Figures side by side if there is room, or below each other on a phone; empty if there are none."""
    return _element("grid", figures) if any(figures) else Markup()


def details(title: str, *parts: Markup) -> Markup:
    """Parts that open on a click; empty if all of them are empty."""
    return _element("details", title, parts) if any(parts) else Markup()


def _element(name: str, *values: object) -> Markup:
    """Fill in a macro of ``templates/elements.html``."""
    element: Markup = getattr(_ELEMENTS, name)(*values)
    return element
