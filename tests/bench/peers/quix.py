"""The job on Quix Streams: a stateful ``apply`` on a StreamingDataFrame, with RocksDB and a changelog topic.

Quix Streams has no timers: a user's record is sent with an event, if the last record is a second old. So the last event
of a burst waits for the user's next event, and fewer records are sent than by the other systems.
"""

from __future__ import annotations

import os
import time
from typing import Any

from quixstreams import Application, State, message_context

from tests.bench.meter import Meter
from tests.bench.peers.windows import EMIT_EVERY_S, apply, new_user, summary


def main() -> None:
    """Run until the meter has counted enough events. The stop commits the last checkpoint."""
    meter = Meter.from_environment()
    app = Application(
        broker_address=os.environ["BENCH_BROKER"],
        consumer_group=os.environ["BENCH_APP_ID"],
        auto_offset_reset="earliest",
        state_dir=os.environ["BENCH_DATA_DIR"],
    )
    events = app.topic(os.environ["BENCH_TOPIC"], value_deserializer="json")
    scores = app.topic(os.environ["BENCH_OUTPUT"], value_serializer="json")

    def keep_windows(event: dict[str, Any], state: State) -> dict[str, Any] | None:
        user = state.get("user") or new_user()
        if not apply(user, event):
            return None
        due = time.time() - user.get("emitted_at", 0.0) >= EMIT_EVERY_S
        if due:
            user["emitted_at"] = time.time()
        state.set("user", user)
        return summary(user) if due else None

    def count(_: Any) -> None:
        meter.add(1, message_context().partition)
        if meter.done:
            app.stop()

    app.dataframe(events).apply(keep_windows, stateful=True).update(count).filter(bool).to_topic(scores)
    app.run()


if __name__ == "__main__":
    main()
