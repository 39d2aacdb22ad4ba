"""Tests of the audit: it fails on a finding, and never reports a failed look-up as a clean result."""

from __future__ import annotations

import json
from typing import Any

from tests.security.audit import Audit, audit, read_report

CLEAN = {"name": "numpy", "version": "2.0.0", "vulns": []}
FOUND = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def report(*packages: dict[str, Any]) -> Audit:
    return read_report(json.dumps({"dependencies": packages, "fixes": []}), "No known vulnerabilities found")


def test_audit_with_a_finding_fails_and_names_the_fix() -> None:
    status, text = audit([], lambda source: report(CLEAN, FOUND))
    assert status == 1
    assert "2 packages looked up at pypi, 1 findings\n  old 1.0: PYSEC-1, fixed in 1.1" in text


def test_audit_without_findings_passes_and_names_skipped_packages() -> None:
    status, text = audit([], lambda source: report(CLEAN, SKIPPED))
    assert status == 0
    assert "1 packages looked up at pypi, 0 findings" in text
    assert "not looked up: torch" in text


def test_second_source_is_asked_if_the_first_skipped_every_package() -> None:
    status, text = audit([], lambda source: report(SKIPPED) if source == "pypi" else report(FOUND))
    assert status == 1
    assert "looked up at osv" in text


def test_audit_without_an_answer_says_so_and_fails_only_if_required() -> None:
    unreachable = [report(SKIPPED), read_report("", "Traceback\nConnectionError: no such host\n"), report()]
    for found in unreachable:
        status, text = audit([], lambda source, found=found: found)
        assert status == 0
        assert "NOTHING WAS AUDITED" in text
        assert "0 findings" not in text
        assert audit(["--required"], lambda source, found=found: found)[0] == 1
    assert "ConnectionError: no such host" in audit([], lambda source: unreachable[1])[1]
