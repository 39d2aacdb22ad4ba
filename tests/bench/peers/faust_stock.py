"""The same job on stock Faust, as Faust's documentation would have it: an agent, a Table, one event at a time.

It is given what makes it faster: uvloop, orjson, plain dicts instead of ``faust.Record``, no web server, windows
that share their buckets. It leaves out what we do besides: lateness, dead letters, money. By hand, against the
broker at 127.0.0.1:9092: ``python -m tests.bench.peers.faust_stock --loop uvloop worker --loglevel info``.
"""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from typing import Any

import faust

from tests.bench.meter import Meter

HISTORY_LEN = 64
#: name → (width in seconds, how many are kept): 1 h is 12 × 5 min, 24 h is 24 × 1 h, 7 d and 30 d are days.
BUCKETS = {"5m": (300, 12), "1h": (3_600, 24), "1d": (86_400, 30)}
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


def new_user() -> dict[str, Any]:
    """A user of whom nothing is known."""
    return {"n_events": 0, "newest": 0, "events": [], "buckets": {name: {} for name in BUCKETS}}


events = app.topic(os.environ.get("BENCH_TOPIC", "events"), key_type=bytes, value_serializer="json")
users = app.Table("users", default=new_user, partitions=PARTITIONS)
meter = Meter.from_environment()


@app.agent(events)
async def keep_windows(stream: Any) -> None:
    """Keep every user's last events and windows."""
    async for event in stream:
        user = users[event["userId"]]
        if apply(user, event):
            users[event["userId"]] = user
        meter.add(1, stream.current_event.message.partition)
        if meter.done:
            await asyncio.Event().wait()


def apply(user: dict[str, Any], event: dict[str, Any]) -> bool:
    """Count an event in its user, by event time; False for one that is among the last ones already."""
    ident = event["messageId"]
    last = user["events"]
    if any(other[1] == ident for other in last):
        return False
    time, kind = int(datetime.fromisoformat(event["timestamp"]).timestamp()), event["event"]
    properties = event["properties"]
    last.append([time, ident, kind, properties["product_id"], properties["category"], properties.get("total")])
    last.sort()
    del last[:-HISTORY_LEN]
    user["n_events"] += 1
    user["newest"] = newest = max(user["newest"], time)
    for name, (width_s, length) in BUCKETS.items():
        count(user["buckets"][name], time // width_s, newest // width_s - length, kind)
    return True


def count(buckets: dict[str, dict[str, int]], number: int, expired: int, kind: str) -> None:
    """Add one to a bucket, and drop those that have left the longest window."""
    if number <= expired:
        return
    if str(number) not in buckets:
        buckets[str(number)] = {}
        for old in [other for other in buckets if int(other) <= expired]:
            del buckets[old]
    bucket = buckets[str(number)]
    bucket[kind] = bucket.get(kind, 0) + 1


if __name__ == "__main__":
    app.main()
