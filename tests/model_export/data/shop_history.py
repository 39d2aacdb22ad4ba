"""Random histories of a small shop, as sent, as a log and as a data set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from model_export.data.dataset import Dataset, build
from model_export.data.event_log import DataConfig, EventLog, decoder_of, read_log
from model_export.data.examples import Examples
from model_export.data.splits import SnapshotConfig
from stream.contract.columns import DAY_S
from stream.contract.manifest import Labels

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 80
LABELS = Labels(eligible_days=10, churn_days=5, purchase_days=(3, 8), value_days=8)
SNAPSHOTS = SnapshotConfig(every_days=4, window_days=8)
SEED = 7
NAMES = ("Product Viewed", "Product Viewed", "Product Added", "Order Completed", "Order Refunded", "Product Reviewed")

Raw = dict[str, Any]


def raw_event(n: int, user: str, seconds: float, name: str, **properties: Any) -> Raw:
    when = (START + timedelta(seconds=round(seconds))).isoformat()
    return {
        "type": "track", "event": name, "messageId": f"m{n}", "userId": user, "timestamp": when,
        "properties": properties,
    }  # fmt: skip


def shoppers(seed: int, users: int = 14, events: int = 900) -> list[Raw]:
    """Random events in event-time order. Some are sent twice; one user has more events than a history holds."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, DAYS * DAY_S, events))
    out = []
    for n, seconds in enumerate(times.tolist()):
        user = "busy" if rng.random() < 0.2 else f"u{rng.integers(users)}"
        total = round(float(rng.lognormal(3, 1)), 2)
        item = f"p{rng.integers(30)}"
        category = item[:2] if rng.random() < 0.8 else None
        event = raw_event(n, user, seconds, str(rng.choice(NAMES)), product_id=item, category=category, total=total)
        out += [event] * (2 if rng.random() < 0.05 else 1)
    # The last event is always the same, so that changed histories have the same splits.
    return [*out, raw_event(10**6, "last", DAYS * DAY_S, "Product Viewed")]


def log_of(events: list[Raw]) -> EventLog:
    values = map(msgspec.json.encode, events)
    return read_log(values, decoder_of(DataConfig(currency="USD")), events_max=100_000)


def data_set_of(log: EventLog, snapshots: SnapshotConfig = SNAPSHOTS) -> Dataset:
    return build(log, LABELS, snapshots, SEED)


def all_examples(data: Dataset) -> Examples:
    """The examples of the splits that share no instant."""
    return Examples.joined((data.train, data.validation, data.test))


def seconds_of(event: Raw) -> int:
    return int(datetime.fromisoformat(event["timestamp"]).timestamp())


def first_sendings(events: list[Raw]) -> list[Raw]:
    """The events without those that are sent again."""
    return list({e["messageId"]: e for e in events}.values())
