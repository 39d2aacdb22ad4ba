"""Disk: turns the errors of the file system into one line that says what to do next."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stream.errors import ConfigError, ValuestreamError

__all__ = ["explained", "require_room"]

#: How much a worker must be able to write before it starts.
_ROOM_BYTES: Final = 256 * 1024
#: Error of the system → what to do about it.
_STEPS: Final = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room in the quota",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EROFS: "mount it writable",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
    errno.EMFILE: "raise the limit on open files",
    errno.EIO: "replace the disk",
}


def require_room(data_dir: Path) -> None:
    """Make the state directory if it is missing, and write to it as a trial. Raises ConfigError if that fails."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir) as trial:
            trial.write(bytes(_ROOM_BYTES))
            trial.flush()
    except OSError as error:
        step = _STEPS.get(error.errno or 0, "look at its path and its rights")
        raise ConfigError(
            f"state directory {data_dir} cannot be written: {error.strerror or error}; expected a directory of this"
            f" worker's own with room for its users; {step}, or set --data-dir"
        ) from None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError about files at ``path`` into a ValuestreamError that says what to do next.

    BlockingIOError passes: it means that another process has the lock, and the caller waits for it.
    """
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        step = _STEPS.get(error.errno or 0, "look at its disk")
        raise ValuestreamError(
            f"state in {path} cannot be kept: {error.strerror or error}; expected a disk that takes it and gives it"
            f" back; {step}, then start the worker again; nothing was committed past what is durable"
        ) from error
