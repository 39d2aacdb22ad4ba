"""The crashing worker: the ordinary command line, but it kills itself at the Nth passage of a named point.

``CHAOS_POINT`` names the point, ``CHAOS_PASSAGE`` is N, and ``CHAOS_MARK`` the file that says that it died there.
Production code knows nothing of this: its functions are wrapped from outside.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from stream import store
from stream.consumer import PositionConsumer
from stream.decode import Decoder
from stream.filling import Filling
from stream.pipeline import Pipeline
from stream.publish import Publisher
from stream.restored import Restored
from stream.service import cli
from stream.store import UserStore

__all__ = ["POINTS"]

Die = Callable[[], None]


class Countdown:
    """Kills this process, as ``kill -9`` from outside would, when it is called for the Nth time."""

    def __init__(self, passage: int, mark: Path) -> None:
        self._left, self._mark = passage, mark
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Pass once."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


def _after_decode(die: Die) -> None:
    decode = Decoder.decode

    def then_die(self: Any, *args: Any) -> Any:
        decoded = decode(self, *args)
        die()
        return decoded

    Decoder.decode = then_die  # type: ignore[method-assign]


def _after_send(topic_setting: str, suffix: str = "") -> Callable[[Die], None]:
    """Records of this topic are acknowledged, and we have not heard of it yet."""

    def install(die: Die) -> None:
        send, topic = Publisher.send, os.environ[topic_setting] + suffix

        async def then_die(self: Any, to: str, *args: Any) -> int | None:
            offset = await send(self, to, *args)
            if to == topic and offset is not None:
                die()
            return offset

        Publisher.send = then_die  # type: ignore[method-assign]

    return install


def _around_store_write(before: bool) -> Callable[[Die], None]:
    """At a checkpoint, and not in recovery, which writes in the same way."""

    def install(die: Die) -> None:
        write, write_restored = UserStore.write, UserStore._write_restored
        recovering = threading.Event()

        def dying(self: Any, *args: Any) -> None:
            if before and not recovering.is_set():
                die()
            write(self, *args)
            if not before and not recovering.is_set():
                die()

        def writing_restored(self: Any, *args: Any) -> Any:
            recovering.set()
            changed = write_restored(self, *args)
            recovering.clear()
            return changed

        UserStore.write, UserStore._write_restored = dying, writing_restored  # type: ignore[method-assign]

    return install


def _in_store_write(die: Die) -> None:
    """The batch of a checkpoint is built, and RocksDB does not have it yet."""
    write, database = UserStore.write, UserStore._db_for_partition
    writing = threading.Event()

    def flagged(self: Any, *args: Any) -> None:
        writing.set()
        write(self, *args)
        writing.clear()

    def dying(self: Any, partition: int) -> Any:
        if writing.is_set():
            die()
        return database(self, partition)

    UserStore.write, UserStore._db_for_partition = flagged, dying  # type: ignore[method-assign]


def _before_commit(die: Die) -> None:
    commit = PositionConsumer.force_commit

    async def dying(self: Any, *args: Any, **kwargs: Any) -> bool:
        if self.uncommitted():
            die()
        return await commit(self, *args, **kwargs)

    PositionConsumer.force_commit = dying  # type: ignore[method-assign]


def _mid_inference(die: Die) -> None:
    """The model has run for a batch, on the loop or beside it."""
    run = Pipeline._raw

    async def dying(self: Any, *args: Any) -> Any:
        raw = await run(self, *args)
        die()
        return raw

    Pipeline._raw = dying  # type: ignore[method-assign]


def _mid_changelog(die: Die) -> None:
    """While the changelog is applied to the store."""
    take = Restored.take

    def dying(self: Any, *args: Any) -> None:
        die()
        take(self, *args)

    Restored.take = dying  # type: ignore[method-assign]


def _mid_load(die: Die) -> None:
    """While the state is built from what the store has; a passage is a user."""
    load = store._load

    def dying(state: Any, users: Sequence[Any]) -> None:
        for _ in users:
            die()
        load(state, users)

    store._load = dying


def _mid_fill(die: Die) -> None:
    """While users that are served already are written to an empty store."""
    steps = Filling._steps

    def dying(self: Any) -> Iterator[None]:
        for _ in steps(self):
            die()
            yield

    Filling._steps = dying  # type: ignore[method-assign]


#: Name of a crash point → what makes the worker die there.
POINTS: Final[dict[str, Callable[[Die], None]]] = {
    "after_decode": _after_decode,
    "before_store_write": _around_store_write(before=True),
    "in_store_write": _in_store_write,
    "after_store_write": _around_store_write(before=False),
    "after_changelog_send": _after_send("VALUESTREAM_APP_ID", "-users-changelog"),
    "after_score_send": _after_send("VALUESTREAM_SCORES_TOPIC"),
    "before_commit": _before_commit,
    "mid_inference": _mid_inference,
    "mid_changelog": _mid_changelog,
    "mid_load": _mid_load,
    "mid_fill": _mid_fill,
}


if __name__ == "__main__":
    POINTS[os.environ["CHAOS_POINT"]](Countdown(int(os.environ["CHAOS_PASSAGE"]), Path(os.environ["CHAOS_MARK"])))
    cli.main()
