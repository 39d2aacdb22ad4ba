"""Database: the RocksDB of one partition on disk, read whole or found to be damaged, and the limits of its machine.

rocksdict has one exception for everything, and ends a scan in silence where a block is damaged; both are mended here.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import rocksdict

from stream.errors import ConfigError, ValuestreamError

__all__ = ["Manifest", "Mark", "chunks", "explained", "is_damage", "one_line", "require_room"]

#: Read ahead by a scan; RocksDB's own 8 to 256 KB are made for disks that seek.
_READAHEAD_BYTES: Final = 2 * 1024 * 1024
#: What a worker must be able to write before it starts; RocksDB writes some 100 KB just to open its databases.
_ROOM_BYTES: Final = 256 * 1024
#: What the machine refuses a database that may be whole, in the words of strerror(3), and what to do about it.
_REFUSED: Final = {
    os.strerror(errno.ENOSPC): "make room on the disk",
    os.strerror(errno.EDQUOT): "make room in the quota",
    os.strerror(errno.EFBIG): "raise the limit on file sizes",
    os.strerror(errno.EROFS): "mount it writable",
    os.strerror(errno.EACCES): "give this user the right to write there",
    os.strerror(errno.EPERM): "give this user the right to write there",
    os.strerror(errno.EMFILE): "raise the limit on open files",
    os.strerror(errno.EIO): "replace the disk",
}


def require_room(data_dir: Path) -> None:
    """Write to the state directory as a trial, make it where it is missing; ConfigError where that is refused."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir) as trial:
            trial.write(bytes(_ROOM_BYTES))
            trial.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"state directory {data_dir} cannot be written: {reason}; expected a directory of this worker's own with"
            f" room for its users; {_REFUSED.get(reason, 'look at its path and its rights')}, or set --data-dir"
        ) from None


class Manifest(NamedTuple):
    """RocksDB's list of the files of a database; a later one has a greater name, and grows.

    RocksDB notices by itself a file that is missing and a block that has changed, but not that the end of its manifest
    is gone: it would open with the tables that it knew before, and with the last writes.
    """

    name: str = ""
    size: int = 0

    @classmethod
    def of(cls, path: Path) -> Manifest:
        """That of the database there; the least of all where there is none."""
        try:
            name = (path / "CURRENT").read_text().strip()
            return cls(name, (path / name).stat().st_size)
        except (OSError, ValueError):
            return cls()


class Mark(NamedTuple):
    """What a database says of itself: the changelog offset of its last write, and the manifest that it had then."""

    offset: int | None = None
    manifest: Manifest = Manifest()

    def packed(self) -> bytes:
        """As a value of the database."""
        return f"{self.offset} {self.manifest.name} {self.manifest.size}".encode()

    @classmethod
    def read(cls, value: bytes | None) -> Mark:
        """The reverse of :meth:`packed`, of a database that has none, and of one from before manifests were noted.

        >>> Mark.read(Mark(7, Manifest("MANIFEST-000005", 519)).packed())
        Mark(offset=7, manifest=Manifest(name='MANIFEST-000005', size=519))
        >>> Mark.read(b"7") == Mark(7), Mark.read(None) == Mark()
        (True, True)
        """
        if value is None:
            return cls()
        offset, *manifest = value.decode().split()
        return cls(int(offset), Manifest(manifest[0], int(manifest[1])) if manifest else Manifest())

    def check(self, manifest: Manifest) -> None:
        """Raise for damage where the database was opened with an older manifest than it had at its last write."""
        if manifest < self.manifest:
            raise OSError(
                f"Corruption: manifest is {tuple(manifest)}, but was {tuple(self.manifest)} at the last write"
            )


def chunks(database: Any, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """All keys and values, in order, past all caches, so many at a time. Where a block is damaged, its error is raised.

    rocksdict's own iterator of items ends at a damaged block as if there were no more.
    """
    last, items = b"", database.items(read_opt=_scan())
    while len(chunk := list(islice(items, size))) == size:
        last = chunk[-1][0]
        yield chunk
    _require_end(database, chunk[-1][0] if chunk else last)
    if chunk:
        yield chunk


def _require_end(database: Any, last: bytes) -> None:
    """Raise for damage where there is anything behind this key."""
    rest = database.iter(_scan())
    rest.seek(last + b"\0")
    if rest.valid():
        raise OSError("Corruption: a scan ended before the last key")
    rest.status()


def _scan() -> Any:
    """Options to read a whole database in order, once."""
    options: Any = rocksdict.ReadOptions()
    options.fill_cache(False)
    options.set_readahead_size(_READAHEAD_BYTES)
    return options


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what RocksDB says into one line with the next step; a lock is left to Faust, which waits for it."""
    try:
        yield
    except ValuestreamError:
        raise
    except Exception as error:
        steps = [step for words, step in _REFUSED.items() if words in str(error)]
        if not steps and not is_damage(error):
            raise
        step = f"{steps[0]}, then start" if steps else "start"
        raise ValuestreamError(
            f"state in {path} cannot be kept: {one_line(error)}; expected a disk that takes it and gives it back;"
            f" {step} the worker again (what is damaged it rebuilds from the changelog); nothing was committed past"
            " what is durable"
        ) from error


def is_damage(error: Exception) -> bool:
    """Whether the files are not what RocksDB wrote; rocksdict has one exception for everything."""
    text = str(error)
    refused = any(words in text for words in _REFUSED)
    return not refused and (text.startswith("Corruption") or os.strerror(errno.ENOENT) in text)


def one_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split())
