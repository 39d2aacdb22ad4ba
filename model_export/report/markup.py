"""Markup: HTML of plain text; every function here escapes the text it is given."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

__all__ = [
    "code",
    "details",
    "document",
    "figure",
    "grid",
    "listing",
    "note",
    "paragraph",
    "section",
    "table",
    "verdict",
]

_STYLE: Final = """
:root { color-scheme: light; --line: #d5dae0; --soft: #f4f6f8; --ink: #1c2733; --dim: #566473; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.1rem 4rem; max-width: 76rem; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.2rem 0 .3rem; }
p { max-width: 48rem; margin: .45rem 0; }
.note, figcaption { color: var(--dim); font-size: .88rem; }
.verdict { margin: .8rem 0; padding: .7rem .9rem; background: var(--soft); border-left: 5px solid #777; }
.verdict h3 { margin: 0; } .verdict p { margin: .3rem 0 0; }
.verdict b { padding: .05rem .5rem; margin-left: .35rem; border-radius: 1rem; background: #fff;
             border: 1px solid currentColor; font-size: .82rem; white-space: nowrap; }
.better { border-color: #0072b2; } .better b { color: #00558a; }
.worse { border-color: #d55e00; } .worse b { color: #a34700; }
.grid { display: flex; flex-wrap: wrap; gap: 1rem; }
.grid > * { flex: 1 1 19rem; min-width: 0; max-width: 29rem; }
figure { margin: .6rem 0; } figure svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: .2rem 0 .9rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { background: var(--soft); }
tbody tr:hover { background: var(--soft); }
pre { overflow-x: auto; padding: .7rem .9rem; background: var(--soft); font-size: .82rem; line-height: 1.4; }
summary { cursor: pointer; margin: .5rem 0; }
@media print { figure, .verdict { break-inside: avoid; } }
"""


def document(title: str, *parts: str) -> str:
    """A whole page that asks for nothing outside itself."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{_joined(parts)}</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A titled part of the page; nothing where it has no parts."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{_joined(parts)}</section>\n" if any(parts) else ""


def verdict(task: str, word: str, sentences: Sequence[str]) -> str:
    """A task's headline with its verdict, ``better``, ``worse`` or other words."""
    kind = word if word in ("better", "worse") else "even"
    body = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="verdict {kind}"><h3>{escape(task)} <b>{escape(word)}</b></h3>{body}</div>\n'


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>\n"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>\n'


def listing(text: str) -> str:
    """Lines as they are."""
    return f"<pre>{escape(text)}</pre>\n"


def code(text: str) -> str:
    """A command."""
    return f"<pre><code>{escape(text)}</code></pre>\n"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself where it is wider than the screen; nothing where it has no rows."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<div>{note(caption)}<div class="scroll"><table><thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div></div>\n"
    )


def figure(svg: str, caption: str) -> str:
    """A drawing, which carries its own alternative text, with a caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>\n"


def grid(*figures: str) -> str:
    """Figures side by side where there is room, below each other on a phone."""
    return f'<div class="grid">\n{_joined(figures)}</div>\n' if any(figures) else ""


def details(title: str, *parts: str) -> str:
    """Parts that open on a click; nothing where there are none."""
    return f"<details><summary>{escape(title)}</summary>\n{_joined(parts)}</details>\n" if any(parts) else ""


def _joined(parts: Sequence[str]) -> str:
    return "".join(parts)
