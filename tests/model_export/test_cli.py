"""The command line: what cannot work ends in one line, and help says what each command does."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from model_export import cli
from model_export.export.export import export
from model_export.settings import read_settings
from tests.model_export.small_run import network as small_network
from tests.model_export.small_run import sample, write_run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.toml", "--out", "r"], "settings none.toml cannot be read"),
        (["train", "--set", "data.source=none.csv", "--out", "r"], "data.source is 'none.csv', expected a file"),
        (["prepare", "--set", "model.hidden=30", "--out", "r"], "model.hidden is 30, expected a multiple of 4"),
        (["config", "--set", "fit.epoch=3"], "unknown field `epoch` - at `$.fit`"),
        (["train", "--set", "data.days=60", "--set", "data.users=5", "--out", "r"], "data spans"),
        (
            ["evaluate", "--set", "data.groups=none.csv", "--set", "data.days=9", "--out", "e"],
            "none.csv cannot be read",
        ),
        (["report", "missing"], "run `valuestream-model evaluate` first"),
        (["export", "missing", "--out", "m"], "run folder missing has no run.json"),
        (["verify", "missing", "--run", "missing"], "run folder missing has no run.json"),
    ],
)
def test_command_that_cannot_work_ends_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["valuestream-model", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 1
    assert error.startswith("valuestream-model: ")
    assert message in error
    assert error.count("\n") == 1


def test_config_prints_settings_that_are_read_back_unchanged(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.cli, ["config", "--set", "fit.epochs=11", "--set", "name=my shop"])
    assert result.exit_code == 0
    (tmp_path / "shop.toml").write_text(result.output)
    expected = read_settings(None, ["fit.epochs=11", "name=my shop"])
    assert read_settings(tmp_path / "shop.toml") == expected


def test_help_of_every_command_says_what_it_does() -> None:
    names = {"config", "prepare", "train", "evaluate", "report", "export", "verify"}
    assert names <= set(cli.cli.commands)
    for name in cli.cli.commands:
        result = CliRunner().invoke(cli.cli, [name, "--help"])
        assert result.exit_code == 0
        assert len(result.output.split()) > 15, name


def test_verify_shows_a_line_for_each_variant(tmp_path: Path) -> None:
    run_folder = write_run(tmp_path / "run", small_network(), sample())
    export(run_folder, tmp_path / "model", variants=("fp32",))
    result = CliRunner().invoke(cli.cli, ["verify", str(tmp_path / "model"), "--run", str(run_folder)])
    assert result.exit_code == 0
    header, *rows = result.output.strip().splitlines()
    assert header.split()[:3] == ["variant", "size", "error"]
    assert [row.split()[0] for row in rows] == ["fp32"]
