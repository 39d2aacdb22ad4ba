"""Disk: what is said of a state directory that cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stream.checkpoint.disk import require_room
from stream.errors import ConfigError


@pytest.mark.parametrize("make", [lambda p: p.write_text("a file"), lambda p: p.symlink_to("/proc/no")])
def test_state_directory_that_cannot_be_written_is_one_line(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "state")
    with pytest.raises(ConfigError, match=r"cannot be written: .*; expected .*--data-dir"):
        require_room(tmp_path / "state" / "deeper")
