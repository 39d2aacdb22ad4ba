"""SVG: draws a small matplotlib figure as an element of the page. It refers to nothing outside of the page.

The same numbers give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import Final

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model_export.report.markup import Markup, svg

__all__ = ["HEIGHT", "draw_svg"]

#: Size of a figure in inches; a figure that is a list of rows has another height.
_WIDTH: Final = 4.0
HEIGHT: Final = 3.1
_RC: Final = {
    "svg.hashsalt": "valuestream", "svg.fonttype": "path", "font.family": ["DejaVu Sans"], "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#7b8794", "axes.labelcolor": "#1c2733",
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e6e9ed", "grid.linewidth": 0.7, "lines.linewidth": 1.6, "xtick.color": "#566473",
    "ytick.color": "#566473", "legend.frameon": False, "legend.fontsize": 8, "figure.constrained_layout.use": True,
    "text.parse_math": False,
}  # fmt: skip
_REFERENCE: Final = re.compile(r"#([\w.-]+)")
_IDENTIFIER: Final = re.compile(r' id="([\w.-]+)"')


def draw_svg(title: str, text: str, draw: Callable[[Axes], None], height: float = HEIGHT, diagonal: str = "") -> Markup:
    """Draw on fresh axes. ``text`` is the alternative for readers who cannot see; ``diagonal`` labels a diagonal."""
    with matplotlib.style.context([_RC], after_reset=True):
        figure = Figure(figsize=(_WIDTH, height))
        ax = figure.subplots()
        ax.set_title(title)
        draw(ax)
        if diagonal:
            ax.axline((0, 0), slope=1, color="#9aa5b1", linewidth=1, label=diagonal)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inlined(file.getvalue(), text, height)


def _inlined(file: str, text: str, height: float) -> Markup:
    """The SVG element alone, which fills the width of its place.

    Its identifiers get a prefix of their own, so that they are unique in the page. Unused identifiers are dropped.
    """
    inner = file[file.index(">", file.index("<svg")) + 1 :].replace("xlink:href", "href")
    inner = re.sub(r"<metadata>.*?</metadata>\s*", "", inner, flags=re.DOTALL)
    used = set(_REFERENCE.findall(inner))
    own = "f" + hashlib.blake2s(inner.encode(), digest_size=4).hexdigest()
    inner = _IDENTIFIER.sub(lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", inner)
    for pattern in ('href="#', "url(#"):
        inner = inner.replace(pattern, f"{pattern}{own}-")
    return svg(f"0 0 {72 * _WIDTH:g} {72 * height:g}", text, Markup(inner.strip()))
