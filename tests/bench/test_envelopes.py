"""A test of the bench of envelopes: it decodes every event in every envelope, and prints a line for each."""

from __future__ import annotations

from click.testing import CliRunner

from tests.bench.envelopes import main
from tests.decode.makers import ALL_MAKERS


def test_every_envelope_has_a_line() -> None:
    result = CliRunner().invoke(main, ["--events", "60", "--rounds", "1"], catch_exceptions=False)
    lines = result.output.splitlines()
    assert [line[:20].strip() for line in lines] == [*ALL_MAKERS, "segment by mapping", "segment, tolerant"]
    assert all(float(line[20:].split()[0]) > 0 for line in lines)
