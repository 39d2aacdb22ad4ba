"""Crashing worker: the ordinary command line, which kills itself when it passes a named point for the Nth time.

``CHAOS_POINT`` names the point and ``CHAOS_PASSAGE`` is N. The worker creates the file ``CHAOS_MARK`` just before it
dies there. Production code knows nothing of this: its functions are wrapped from outside.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from stream.checkpoint import journal
from stream.checkpoint.journal import Journal
from stream.commands import cli
from stream.decode.decoder import Decoder
from stream.kafka import table as store
from stream.kafka.consumer import PositionConsumer
from stream.kafka.publisher import Publisher
from stream.kafka.table import UserStore
from stream.score.inference import Inference

__all__ = ["POINTS"]

Die = Callable[[], None]
#: A journal of this size is merged. A part of the traffic of these scenarios is enough for that.
_LONG_BYTES: Final = 8 * 1024


class Countdown:
    """Kills this process at the Nth call, as ``kill -9`` from outside would."""

    def __init__(self, passage: int, mark: Path) -> None:
        self._left, self._mark = passage, mark
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Count one passage."""
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
    """Die when records of this topic are acknowledged, before the worker learns of it."""

    def install(die: Die) -> None:
        send, topic = Publisher.send, os.environ[topic_setting] + suffix

        async def then_die(self: Any, to: str, *args: Any) -> int | None:
            offset = await send(self, to, *args)
            if to == topic and offset is not None:
                die()
            return offset

        Publisher.send = then_die  # type: ignore[method-assign]

    return install


def _at_checkpoints(die: Die) -> Die:
    """A ``die`` that works only while a checkpoint writes to the store. Recovery writes in the same way."""
    write = UserStore.write
    checkpointing = threading.Event()
    restoring = _while(UserStore, "_restore")

    def flagged(self: Any, *args: Any) -> None:
        if not restoring.is_set():
            checkpointing.set()
        write(self, *args)
        checkpointing.clear()

    UserStore.write = flagged  # type: ignore[method-assign]
    return lambda: die() if checkpointing.is_set() else None


def _while(owner: Any, name: str) -> threading.Event:
    """An event that is set while this method of ``owner`` runs."""
    method, running = getattr(owner, name), threading.Event()

    def flagged(self: Any, *args: Any) -> Any:
        running.set()
        result = method(self, *args)
        running.clear()
        return result

    setattr(owner, name, flagged)
    return running


def _before_store_write(die: Die) -> None:
    append, die = Journal.append, _at_checkpoints(die)

    def dying(self: Any, *args: Any) -> None:
        die()
        append(self, *args)

    Journal.append = dying  # type: ignore[method-assign]


def _after_store_write(die: Die) -> None:
    append, die = Journal.append, _at_checkpoints(die)

    def dying(self: Any, *args: Any) -> None:
        append(self, *args)
        die()

    Journal.append = dying  # type: ignore[method-assign]


def _in_store_write(die: Die) -> None:
    """Die when half of a checkpoint's block is in the file."""
    write, die = journal._write, _at_checkpoints(die)

    def dying(file: Any, data: bytes) -> None:
        half = len(data) // 2
        write(file, data[:half])
        die()
        write(file, data[half:])

    journal._write = dying


def _before_commit(die: Die) -> None:
    commit = PositionConsumer.force_commit

    async def dying(self: Any, *args: Any, **kwargs: Any) -> bool:
        if self.uncommitted():
            die()
        return await commit(self, *args, **kwargs)

    PositionConsumer.force_commit = dying  # type: ignore[method-assign]


def _mid_inference(die: Die) -> None:
    """Die when the model has run for a batch, in the event loop or in the inference thread."""
    run = Inference.run

    async def dying(self: Any, *args: Any) -> Any:
        raw = await run(self, *args)
        die()
        return raw

    Inference.run = dying  # type: ignore[method-assign]


def _mid_changelog(die: Die) -> None:
    """Die while the changelog is applied to the store."""
    restore = UserStore._restore

    def dying(self: Any, *args: Any) -> None:
        die()
        restore(self, *args)

    UserStore._restore = dying  # type: ignore[method-assign]


def _mid_load(die: Die) -> None:
    """Die while the state is loaded from the store. Each user is a passage."""
    load = store._load

    def dying(state: Any, users: Any) -> None:
        for _ in users.keys:
            die()
        load(state, users)

    store._load = dying


def _mid_merge(die: Die) -> None:
    """Die while the files of a journal are merged. Journals are merged early here."""
    merging = Journal.merging

    def dying(self: Any) -> Iterator[None]:
        for _ in merging(self):
            die()
            yield

    Journal.merging = dying  # type: ignore[method-assign]
    journal._BYTES_MIN = _LONG_BYTES  # type: ignore[misc]


#: Name of a crash point → the function that makes the worker die there.
POINTS: Final[dict[str, Callable[[Die], None]]] = {
    "after_decode": _after_decode,
    "before_store_write": _before_store_write,
    "in_store_write": _in_store_write,
    "after_store_write": _after_store_write,
    "after_changelog_send": _after_send("VALUESTREAM_APP_ID", "-users-changelog"),
    "after_score_send": _after_send("VALUESTREAM_SCORES_TOPIC"),
    "before_commit": _before_commit,
    "mid_inference": _mid_inference,
    "mid_changelog": _mid_changelog,
    "mid_load": _mid_load,
    "mid_merge": _mid_merge,
}


if __name__ == "__main__":
    POINTS[os.environ["CHAOS_POINT"]](Countdown(int(os.environ["CHAOS_PASSAGE"]), Path(os.environ["CHAOS_MARK"])))
    cli.main()
