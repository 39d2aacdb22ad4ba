"""Command: runs the ``valuestream`` command in a process of its own, as a person would."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["assert_one_line", "valuestream"]


def valuestream(*arguments: str | os.PathLike[str] | bytes, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, with these variables added to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "stream.commands.cli", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that the command failed with one line on stderr that holds these words."""
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("valuestream: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
