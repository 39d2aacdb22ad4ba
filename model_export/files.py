"""Files: folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream.errors import ConfigError

__all__ = ["replaced"]


@contextmanager
def replaced(folder: Path, marker: str) -> Iterator[Path]:
    """A new folder to write, put in the place of ``folder`` when all went well.

    Only a folder that holds ``marker``, or is empty, is replaced: it was written by us.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} exists and holds no {marker}, so it is not replaced; give another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    old = new.with_name(new.name + "-old")
    try:
        new.chmod(0o755)
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
