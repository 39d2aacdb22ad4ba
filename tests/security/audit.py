"""``make audit``: known vulnerabilities in what constraints.txt pins, asked of PyPI, else of OSV, by pip-audit.

A finding fails. Where no source of advisories can be reached nothing was audited, and it says so: pip-audit itself
reports "No known vulnerabilities found" where it could look up none of the packages.
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
#: PyPI is asked for each package, four answers a second at worst.
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Audit:
    """What one source knew of the packages: those it has findings for, how many it looked up, and those it did not."""

    findings: tuple[str, ...]
    audited: int
    skipped: tuple[str, ...]
    trouble: str = ""


def read_report(stdout: str, stderr: str) -> Audit:
    """Read pip-audit's JSON; where it ended without, the last line of what it said is the trouble."""
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
    """One run of pip-audit over the constraints; nothing is installed."""
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
    """Exit status and report: 1 for a finding, and with ``--required`` also where nothing could be audited."""
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
    refused = "--required" in arguments
    head = "audit: NOTHING WAS AUDITED, as no source of advisories could be reached from this machine"
    return int(refused), "\n".join([head, *troubles, "  run `make audit` where PyPI's JSON API or OSV can be reached"])


if __name__ == "__main__":
    status, report = audit(sys.argv[1:])
    print(report)
    sys.exit(status)
