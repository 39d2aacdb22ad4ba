"""Filling: how an empty database gets all that recovery has read, while its users are served already.

They are in the changelog and in memory, so nobody needs to wait for the disk. RocksDB takes them as one sorted file,
whole or not at all: until then the database is empty, and who starts after a crash reads the changelog again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import rocksdict

__all__ = ["Filling"]

#: Users written before others have their turn: about a millisecond.
_STEP: Final = 500


class Filling:
    """Fills the empty database of this path with users (None: gone), which the changelog has up to ``offset``.

    ``steps`` does it, some of it for each element. What is to be written meanwhile is held, as the file would hide it.
    """

    def __init__(
        self, database: Any, path: Path, options: Any, users: Mapping[bytes, bytes | None], offset: int
    ) -> None:
        self._database, self._file, self._options, self._users = database, self.file_of(path), options, users
        self.offset = offset
        self.held: dict[bytes, bytes | None] = {}
        self.steps = self._steps()
        #: Whether the database has all users of the file.
        self.done = False
        self._error: Exception | None = None

    @staticmethod
    def file_of(path: Path) -> Path:
        """The file with which the database of this path is filled: a crash leaves it there, with users in it."""
        return path.with_suffix(".filling")

    def hold(self, items: Iterable[tuple[bytes, bytes | None]], offset: int) -> None:
        """Keep what is to be written after the file. Raises what made a step fail."""
        if self._error is not None:
            raise self._error
        self.held.update(items)
        self.offset = offset

    def finish(self) -> None:
        """Take the steps that are left. Raises what made one fail, however often it is asked."""
        deque(self.steps, maxlen=0)
        if self._error is not None:
            raise self._error

    def _steps(self) -> Iterator[None]:
        try:
            writer = rocksdict.SstFileWriter(options=self._options)
            writer.open(str(self._file))
            for n, key in enumerate(sorted(key for key, value in self._users.items() if value)):
                writer[key] = self._users[key]
                if n % _STEP == 0:
                    yield
            writer.finish()
            moved: Any = rocksdict.IngestExternalFileOptions()
            moved.set_move_files(True)
            self._database.ingest_external_file([str(self._file)], moved)
            self.done, self._users = True, {}
        except Exception as error:
            self._error = error
