"""Audit: the command behind ``make audit``. pip-audit looks for known vulnerabilities in what constraints.txt pins.

It asks PyPI, and OSV if PyPI does not answer. A finding is a failure. If no source of advisories can be reached,
nothing was audited, and the report says so. pip-audit itself reports "No known vulnerabilities found" in that case.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
SOURCES = ("pypi", "osv")
#: pip-audit asks PyPI for each package, and gets at least four answers a second.
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Audit:
    """The answer of one source: its findings, how many packages it looked up, and which ones it skipped."""

    findings: tuple[str, ...]
    audited: int
    skipped: tuple[str, ...]
    trouble: str = ""


def read_report(stdout: str, stderr: str) -> Audit:
    """Read pip-audit's JSON. If there is none, the last line of its stderr is the trouble."""
    try:
        packages: list[dict[str, Any]] = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Audit((), 0, (), (stderr.strip().splitlines() or ["it wrote no report"])[-1])
    findings = tuple(
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    )
    skipped = {package["name"]: package["skip_reason"] for package in packages if "skip_reason" in package}
    return Audit(findings, len(packages) - len(skipped), tuple(skipped), next(iter(skipped.values()), ""))


def ask(source: str) -> Audit:
    """Run pip-audit once over the constraints. Nothing is installed."""
    command = [sys.executable, "-m", "pip_audit", "-r", CONSTRAINTS, "--disable-pip", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--vulnerability-service", source],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Audit((), 0, (), f"no answer within {TIMEOUT_S} s")
    return read_report(done.stdout, done.stderr)


def audit(arguments: Sequence[str], ask: Callable[[str], Audit] = ask) -> tuple[int, str]:
    """Exit status and report. The status is 1 for a finding, and with ``--required`` also if nothing was audited."""
    troubles = []
    for source in SOURCES:
        found = ask(source)
        if not found.audited:
            troubles.append(f"  {source}: {found.trouble}")
            continue
        lines = [f"audit: {found.audited} packages looked up at {source}, {len(found.findings)} findings"]
        lines += [f"  {line}" for line in found.findings]
        if found.skipped:
            lines.append(f"  not looked up: {', '.join(found.skipped)} ({found.trouble})")
        return int(bool(found.findings)), "\n".join(lines)
    required = "--required" in arguments
    head = "audit: NOTHING WAS AUDITED, because this machine could reach no source of advisories"
    return int(required), "\n".join([head, *troubles, "  run `make audit` where PyPI's JSON API or OSV can be reached"])


if __name__ == "__main__":
    status, report = audit(sys.argv[1:])
    print(report)
    sys.exit(status)
