"""Bench page: the tables show the result, and the text that was written by hand stays."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from model_export.bench.bench import BenchResult
from model_export.bench.int8_speed import Int8Speedup
from model_export.bench.page import BEGIN, END, as_markdown, read_json, write_json, write_page
from model_export.bench.runners import EAGER, SERVING
from model_export.cli import cli
from stream.errors import ConfigError, ContractError


def test_tables_are_put_between_the_marks_and_all_else_stays(result: BenchResult, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# before\n{BEGIN}\nold\n{END}\n# after\n", encoding="utf-8")
    write_page(page, result)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# before\n{BEGIN}\n")
    assert text.endswith(f"{END}\n# after\n")
    assert "old" not in text
    assert as_markdown(result) in text
    write_page(page, result)
    assert page.read_text(encoding="utf-8") == text
    page.write_text("# no marks\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no lines"):
        write_page(page, result)


def test_result_is_read_as_it_was_written(result: BenchResult, tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", result)
    assert read_json(tmp_path / "bench.json") == result
    (tmp_path / "bench.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ContractError, match="cannot be read"):
        read_json(tmp_path / "bench.json")


def test_tables_show_ratios_targets_and_what_is_missing(result: BenchResult) -> None:
    text = as_markdown(result)
    assert f"{result.ratio(SERVING, EAGER, 16):.2f}" in text
    assert "≥ 1.8" in text
    assert "not measured: torch.compile" in text
    assert "int8 over fp32, one thread, hidden" not in text
    gains = [Int8Speedup(256, 8, 100.0, 1.9), Int8Speedup(32, 8, 1_000.0, 1.04), Int8Speedup(32, 64, 1_000.0, 1.1)]
    text = as_markdown(msgspec.structs.replace(result, int8=gains))
    assert "| 32 | 1.04 | 1.10 |\n| 256 | 1.90 | – |" in text
    assert "AUC that int8 loses: –" in as_markdown(msgspec.structs.replace(result, auc_loss=None))


def test_command_prints_the_tables_and_writes_the_json(run_folder: Path, tmp_path: Path) -> None:
    options = ["--batch", "2", "--rounds", "1", "--users", "4", "--no-compile", "--output", str(tmp_path / "b.json")]
    result = CliRunner().invoke(cli, ["bench", str(run_folder), *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert "int8 over fp32, one thread, hidden" not in result.output
    assert result.output.strip() == as_markdown(read_json(tmp_path / "b.json")).strip()
