"""Tests of ``events check``: what it says of a file, and when it ends with an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stream.commands.events.command import events
from stream.errors import ConfigError
from tests.decode.makers import flat, segment, shop


def check(tmp_path: Path, *lines: Any, args: tuple[str, ...] = ()) -> Result:
    """Run the command on a file of these events."""
    file = tmp_path / "events.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    file.write_text(text, encoding="utf-8")
    return CliRunner().invoke(events, ["check", str(file), *args])


def test_it_says_by_type_what_would_be_read_and_why_not(tmp_path: Path) -> None:
    result = check(
        tmp_path,
        *[segment(kind="view", user=f"u{i}") for i in range(3)],
        segment(kind="purchase", amount=5, currency="XTS"),
        segment(kind="Coupon Denied"),
        segment(time="soon"),
        {**segment(), "type": "identify"},
    )
    assert result.exit_code == 0
    for line in (
        "7 records, read as segment",
        "3  view",
        "1  purchase",
        "1  ignored",
        "1  dead letters",
        "1 timestamp: timestamp is 'soon'",
        "unknown names 'Coupon Denied' 1",
        "currencies    'XTS' 1",
        "times         2024-12-30T23:06:40Z to 2024-12-30T23:06:40Z",
    ):
        assert line in result.output
    assert "fits better" not in result.output


@pytest.mark.parametrize(("envelope", "make"), [("segment", flat), ("flat", segment)])
def test_it_names_the_envelope_that_fits_and_fails(tmp_path: Path, envelope: str, make: Any) -> None:
    other = "flat" if envelope == "segment" else "segment"
    result = check(tmp_path, *[make(kind="view", user=f"u{i}") for i in range(5)], args=("--envelope", envelope))
    assert (result.exit_code, result.output.splitlines()[-1]) == (1, f"--envelope {other} fits better")


def test_where_no_preset_fits_it_points_to_a_mapping(tmp_path: Path) -> None:
    mapping = str(Path(__file__).parents[2] / "decode" / "shop.toml")
    lines = [shop(kind="view", user=f"u{i}") for i in range(5)]
    assert "write a mapping (docs/envelopes.md)" in check(tmp_path, *lines).output
    assert check(tmp_path, *lines, args=("--envelope", mapping)).exit_code == 0


def test_json_has_the_same_facts(tmp_path: Path) -> None:
    result = check(tmp_path, segment(), "not JSON", args=("--json",))
    found = json.loads(result.output)
    assert found["findings"]["types"] == {"view": 1}
    assert found["findings"]["dead"] == {"malformed": 1}
    assert found["envelope_that_fits"] is None


def test_limit_bounds_what_is_read(tmp_path: Path) -> None:
    assert "2 records" in check(tmp_path, *[segment()] * 9, args=("--limit", "2")).output


@pytest.mark.parametrize("args", [[], ["--topic", "t", __file__]], ids=["neither", "both"])
def test_a_file_or_a_topic_is_needed(args: list[str]) -> None:
    result = CliRunner().invoke(events, ["check", *args])
    assert isinstance(result.exception, ConfigError)
    assert "expected a file or --topic" in str(result.exception)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    assert isinstance(check(tmp_path).exception, ConfigError)
