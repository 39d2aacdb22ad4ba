"""The job on stock Faust, as Faust's documentation would have it: an agent, a Table, a timer, one event at a time.

It has everything that makes it faster: uvloop, orjson, plain dicts instead of ``faust.Record``, and no web server. To
run it by hand with the broker at 127.0.0.1:9092:
``python -m tests.bench.peers.faust_stock --loop uvloop worker --loglevel info``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import faust

from tests.bench.meter import Meter
from tests.bench.peers.windows import EMIT_EVERY_S, apply, new_user, summary

PARTITIONS = int(os.environ.get("BENCH_PARTITIONS", "4"))

app = faust.App(
    os.environ.get("BENCH_APP_ID", "faust-stock"),
    broker=f"kafka://{os.environ.get('BENCH_BROKER', '127.0.0.1:9092')}",
    store="rocksdb://?driver=rocksdict",
    datadir=os.environ.get("BENCH_DATA_DIR"),
    topic_partitions=PARTITIONS,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
events = app.topic(os.environ.get("BENCH_TOPIC", "events"), key_type=bytes, value_serializer="json")
scores = app.topic(os.environ.get("BENCH_OUTPUT", "scores"), key_serializer="raw", value_serializer="json")
users = app.Table("users", default=new_user, partitions=PARTITIONS)
meter = Meter.from_environment()
touched: dict[str, dict[str, Any]] = {}


@app.agent(events)
async def keep_windows(stream: Any) -> None:
    """Keep the last events and the windows of every user."""
    async for event in stream:
        user = users[event["userId"]]
        if apply(user, event):
            users[event["userId"]] = user
            touched[event["userId"]] = user
        meter.add(1, stream.current_event.message.partition)
        if meter.done:
            await asyncio.Event().wait()


@app.timer(interval=EMIT_EVERY_S)  # type: ignore[untyped-decorator]
async def emit() -> None:
    """Send one record for every user who had an event since the last call."""
    now = dict(touched)
    touched.clear()
    for user_id, user in now.items():
        await scores.send(key=user_id.encode(), value=summary(user))


if __name__ == "__main__":
    app.main()
