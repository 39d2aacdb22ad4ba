"""Files: replaces a folder in one step, so that it is there whole or not at all."""

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
    """Yield a new folder to write to. It takes the place of ``folder`` once the block has ended without an error.

    Only a folder that holds the file ``marker``, which says that we wrote it, or an empty folder is replaced. Raises
    ConfigError for any other.
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
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
