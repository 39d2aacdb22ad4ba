"""Capacity page: writes the unit costs and the examples of docs/capacity.md, so that they stay true.

The examples are the output of ``valuestream plan``. ``python -m tests.bench.unit_costs`` brings the page up to date
together with the unit costs.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

from click.testing import CliRunner

from stream.commands.plan.command import plan
from stream.commands.plan.unit_costs import read_unit_costs

__all__ = ["PAGE", "examples", "refreshed"]

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "capacity.md"
_EXAMPLE: Final = re.compile(r"```console\n\$ valuestream plan (?P<arguments>.*)\n(?P<output>(?:(?!```).*\n)*)```")
_FIGURES: Final = re.compile(r"(?<=<!-- unit costs -->\n)(?:.*\n)*?(?=<!-- end -->)")


def examples(page: str) -> list[tuple[str, str]]:
    """Arguments and output of each example."""
    return [(found["arguments"], found["output"]) for found in _EXAMPLE.finditer(page)]


def refreshed(page: str) -> str:
    """The page with the present unit costs, and with what the command prints now."""
    page = _FIGURES.sub(lambda _: _table(), page)
    return _EXAMPLE.sub(
        lambda found: f"```console\n$ valuestream plan {found['arguments']}\n{_output(found['arguments'])}```", page
    )


def _output(arguments: str) -> str:
    done = CliRunner().invoke(plan, shlex.split(arguments), catch_exceptions=False)
    assert done.exit_code == 0, f"`valuestream plan {arguments}` failed: {done.output}"
    return done.output


def _table() -> str:
    lines = ["| figure | value | from | measured by | on |", "|---|---:|---|---|---|"]
    for name, f in read_unit_costs().items():
        value = "not measured" if f.value is None else f"{f.value:,.4g} {f.unit}"
        on = ", ".join(part for part in (f.measured, f.hardware) if part)
        lines.append(f"| `{name}` | {value} | {f.source} | `{f.command}` | {on} |")
    return "\n".join(lines) + "\n"
