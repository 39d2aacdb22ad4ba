"""Measure: counts what the pure stages cost now, and compares it with the baseline that CI checks.

Run ``python -m tests.costs.measure``. With ``--write`` the present costs become the baseline. With ``--instructions``
it counts machine instructions, which needs valgrind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

from tests.costs.meter import Cost

__all__ = ["BASELINE", "differences", "made_with", "measured", "run_python"]

BASELINE: Final = Path(__file__).parent / "baseline.json"
WRITE: Final = "python -m tests.costs.measure --write"
#: A stage may cost this much more or less than the baseline ...
TOLERANCE: Final = 0.05
#: ... or this much, whichever is more: smaller costs belong to the batch and not to its events.
SLACK: Final = Cost(bytecodes=1.0, python_calls=0.1, c_calls=0.1, array_bytes=32.0)
#: The counts include Python code and calls of these packages.
_COUNTED: Final = ("numpy", "msgspec", "xxhash", "prometheus-client")
_ROOT: Final = Path(__file__).parents[2]
#: The counts do not depend on the hash seed, but a few in a thousand machine instructions do.
_ENVIRONMENT: Final = {"PYTHONHASHSEED": "0"}
_TIMEOUT_S: Final = 600


def made_with() -> dict[str, str]:
    """Versions of Python and of the packages in the counts. All patch releases of a Python have the same bytecodes."""
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **{p: version(p) for p in _COUNTED}}


def measured() -> dict[str, Any]:
    """Stage → its unit ("per") and its costs, counted in a fresh process that nothing has warmed up or traces."""
    counted: dict[str, Any] = json.loads(run_python("-m", "tests.costs.meter"))
    return counted


def differences(found: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """A line for each cost that the baseline does not allow; empty if every stage costs what it did."""
    lines = [
        f"stage {name} is in {'the baseline' if name in baseline else 'the workload'} alone; {WRITE}"
        for name in sorted(found.keys() ^ baseline.keys())
    ]
    for name in (name for name in found if name in baseline):
        per, was = found[name]["per"], baseline[name]
        for what, slack in SLACK._asdict().items():
            before = was.get(what, 0.0)
            change, allowed = found[name][what] - before, max(TOLERANCE * before, slack)
            if abs(change) > allowed:
                lines.append(
                    f"{name}: found {found[name][what]:,.5g} {what} per {per},"
                    f" allowed {before:,.5g} ± {allowed:,.3g}; {_next_step(change > 0)}"
                )
    return lines


def _next_step(dearer: bool) -> str:
    if dearer:
        return f"make it cheaper, or say in the commit why it must cost more and run `{WRITE}`"
    return f"cheaper, well done: run `{WRITE}`, so that it stays so"


def run_python(*arguments: str, under: Sequence[str] = ()) -> str:
    """The output of a Python process with these arguments, started by the command ``under`` if there is one."""
    done = subprocess.run(
        [*under, sys.executable, *arguments],
        cwd=_ROOT,
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        raise click.ClickException(f"counting failed with status {done.returncode}:\n{done.stderr[-4_000:]}")
    return done.stdout


def instructions() -> dict[str, float]:
    """Machine instructions per event or user of each stage, counted by callgrind, with interpreter and numpy."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise click.ClickException("found no valgrind, expected it on the PATH; install it (Debian: valgrind)")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        under = [valgrind, "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
        stages = json.loads(run_python("-m", "tests.costs.meter", "--laps", under=under))
        # Dump 1 ends at the start of the first stage, dump 2 at its end.
        laps = [_total(Path(f"{out}.{2 * i}")) for i in range(1, len(stages) + 1)]
    return {name: round(lap / n, 1) for (name, _, n), lap in zip(stages, laps, strict=True)}


def _total(dump: Path) -> int:
    found = re.search(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE)
    assert found, f"{dump.name} has no totals, expected a dump of callgrind"
    return int(found[1])


def _table(found: dict[str, Any], baseline: dict[str, Any]) -> str:
    lines = [f"{'':<24}" + "".join(f"{what:>20}" for what in Cost._fields)]
    for name, costs in found.items():
        was = baseline.get(name, {})
        cells = [f"{costs[what]:,.1f}{_change(costs[what], was.get(what, 0.0)):>9}" for what in Cost._fields]
        lines.append(f"{name + ' per ' + costs['per']:<24}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def _change(now: float, was: float) -> str:
    return f"{now / was - 1:+.1%}" if was else "new" if now else "="


@click.command()
@click.option("--write", is_flag=True, help="Make the present costs the baseline.")
@click.option(
    "--instructions", "by_valgrind", is_flag=True, help="Count machine instructions instead, which takes a minute."
)
def main(write: bool, by_valgrind: bool) -> None:
    """Show what the pure stages cost per event or user, and how much that differs from the baseline."""
    if by_valgrind:
        for name, count in instructions().items():
            click.echo(f"{name:<12}{count:>12,.0f} instructions")
        return
    found = measured()
    before = json.loads(BASELINE.read_text())["stages"] if BASELINE.exists() else {}
    click.echo(_table(found, before))
    if write:
        BASELINE.write_text(json.dumps({"made_with": made_with(), "stages": found}, indent=1) + "\n")
        click.echo(f"written to {BASELINE.relative_to(_ROOT)}")


if __name__ == "__main__":
    main()
