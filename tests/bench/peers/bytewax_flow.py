"""The job on Bytewax: a ``stateful`` operator with notifications, one worker, and its recovery store on.

The recovery store is local (SQLite): Bytewax writes no changelog, so a lost disk is lost state. Its epochs have their
default length of 10 s. At the end of an epoch changed users become durable; the other systems do that every 1 to 5 s.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.inputs import StatefulSourcePartition
from bytewax.operators import StatefulLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from tests.bench.meter import Meter
from tests.bench.peers.windows import EMIT_EVERY_S, apply, new_user, summary

_METER = Meter.from_environment()
_NOTHING: tuple[Any, ...] = ()


class UserLogic(StatefulLogic):  # type: ignore[misc]
    """One user: their windows, and the time of their next record."""

    def __init__(self, saved: bytes | None) -> None:
        self.user: dict[str, Any] = orjson.loads(saved) if saved else new_user()
        self.due: datetime | None = None

    def on_item(self, item: tuple[int, dict[str, Any]]) -> tuple[Iterable[dict[str, Any]], bool]:
        """Count an event of a partition, and emit the user later."""
        partition, event = item
        if apply(self.user, event) and self.due is None:
            self.due = datetime.now(UTC) + timedelta(seconds=EMIT_EVERY_S)
        _METER.add(1, partition)
        return _NOTHING, StatefulLogic.RETAIN

    def on_notify(self) -> tuple[Iterable[dict[str, Any]], bool]:
        """Emit the user's record."""
        self.due = None
        return (summary(self.user),), StatefulLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[dict[str, Any]], bool]:
        """Emit a record that is still due."""
        return self.on_notify() if self.due else (_NOTHING, StatefulLogic.RETAIN)

    def notify_at(self) -> datetime | None:
        """The time of the next record."""
        return self.due

    def snapshot(self) -> bytes:
        """The user as bytes, which nothing changes later. A deep copy, as in Bytewax's documentation, costs more."""
        return orjson.dumps(self.user)


class Until(StatefulSourcePartition):  # type: ignore[misc]
    """A partition up to an offset. A source that ends makes everything durable, so a prefix of the topic must end."""

    def __init__(self, part: Any, end: int) -> None:
        self._part, self._end = part, end

    def next_batch(self) -> list[Any]:
        """The next records before the end."""
        if (self._part.snapshot() or 0) >= self._end:
            raise StopIteration
        return [m for m in self._part.next_batch() if m.offset < self._end]

    def snapshot(self) -> Any:
        """The offset from which to go on."""
        return self._part.snapshot()

    def close(self) -> None:
        """Close the consumer."""
        self._part.close()


class Prefix(KafkaSource):  # type: ignore[misc]
    """The topic up to the offsets in ``BENCH_ENDS``."""

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Until:
        """One partition; its name is ``number-topic``."""
        ends = json.loads(os.environ["BENCH_ENDS"])
        return Until(super().build_part(step_id, for_part, resume_state), ends.get(for_part.split("-", 1)[0], 0))


def flow() -> Dataflow:
    """Topic → users → topic."""
    brokers = [os.environ["BENCH_BROKER"]]
    dataflow = Dataflow("bench")
    messages = op.input("events", dataflow, Prefix(brokers, [os.environ["BENCH_TOPIC"]]))
    events = op.map("decode", messages, lambda m: (m.partition, orjson.loads(m.value)))
    keyed = op.key_on("user", events, lambda item: item[1]["userId"])
    summaries = op.stateful("windows", keyed, UserLogic)
    records = op.map("encode", summaries, lambda keyed: KafkaSinkMessage(keyed[0].encode(), orjson.dumps(keyed[1])))
    op.output("scores", records, KafkaSink(brokers, os.environ["BENCH_OUTPUT"]))
    return dataflow


def main() -> None:
    """Run to the end of the prefix."""
    folder = Path(os.environ["BENCH_DATA_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    init_db_dir(folder, 1)
    cli_main(flow(), recovery_config=RecoveryConfig(folder))


if __name__ == "__main__":
    main()
