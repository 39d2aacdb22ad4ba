"""Markdown: which pages are written by hand, and how they are laid out.

``python -m tests.markdown`` formats every page, as ``make format`` formats the code. What a command writes stays as it
is: whole pages (``GENERATED``), or parts of a page that is otherwise written by hand (``GENERATED_PARTS``).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import mdformat

__all__ = ["GENERATED", "GENERATED_PARTS", "PAGES", "ROOT", "formatted", "hand_written", "written_by_hand"]

ROOT: Final = Path(__file__).parents[1]
#: Page → the command that writes all of it. A test of that command holds the page against its output.
GENERATED: Final = {
    "docs/benchmarks.md": "python -m tests.bench.report",
    "docs/metrics.md": "python -m stream.metrics > docs/metrics.md",
    "docs/reliability.md": "python -m tests.chaos.report > docs/reliability.md",
    "docs/results.md": "make results",
    "stream/models/demo/README.md": "make demo-model",
}
#: Page → a pattern of the parts that a command writes; the rest of the page is written by hand.
GENERATED_PARTS: Final = {
    # python -m tests.bench.unit_costs
    "docs/capacity.md": r"```console\n\$ valuestream plan .*?\n```|<!-- unit costs -->.*?<!-- end -->",
    # make bench-inference
    "docs/inference.md": r"<!-- bench: written by .*?<!-- bench: end -->",
}
_FOLDERS: Final = ("docs", "deploy", "stream", "model_export", "tests")
#: Every Markdown page of the repository, as a path from its top.
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.md")))
)
_OPTIONS: Final = tomllib.loads((ROOT / ".mdformat.toml").read_text(encoding="utf-8"))


def hand_written() -> list[str]:
    """The pages that are written by hand, at least in part."""
    return [page for page in PAGES if page not in GENERATED]


def written_by_hand(page: str, text: str) -> list[str]:
    """The pieces of a page that no command writes."""
    return _pieces(page, text)[::2]


def formatted(page: str, text: str) -> str:
    """The page as mdformat lays it out, with the parts that a command writes left as they are."""
    pieces = _pieces(page, text)
    pieces[::2] = [mdformat.text(piece, options=_OPTIONS, extensions={"gfm", "tables"}) for piece in pieces[::2]]
    return "\n\n".join(piece.strip("\n") for piece in pieces if piece.strip()) + "\n"


def _pieces(page: str, text: str) -> list[str]:
    """By turns a piece that is written by hand, and one that a command writes."""
    pattern = GENERATED_PARTS.get(page)
    return re.split(f"({pattern})", text, flags=re.DOTALL) if pattern else [text]


def main() -> None:
    """Format the pages that are written by hand."""
    for page in hand_written():
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after = formatted(page, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"formatted {page}")


if __name__ == "__main__":
    main()
