"""Envelopes: how long decode takes for an event in each envelope. Run ``python -m tests.bench.envelopes``.

The same events of a shop are written in every envelope that has a maker in ``tests/decode/makers.py``. ``segment by
mapping`` reads the Segment shape by a mapping, which tells what a mapping costs. ``tolerant`` is the other way of
decode, which events that fit no typed struct go.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

from stream.decode.decoder import Decoder, Money
from tests.decode.makers import ALL_MAKERS, Record, envelope

_SEGMENT_MAPPING: Final = """
user = ["userId", "anonymousId"]
time = "timestamp"
id = "messageId"
type = "event"
item = "properties.product_id"
category = "properties.category"
price = "properties.price"
quantity = "properties.quantity"
order = "properties.order_id"
amount = ["properties.total", "properties.revenue", "properties.value"]
currency = "properties.currency"
text = "properties.review_body"
lines = "properties.products"
[line]
item = "product_id"
category = "category"
price = "price"
quantity = "quantity"
"""
_FETCH: Final = 1_000
#: Among this many events there is one order.
_ORDER_EVERY: Final = 25


@click.command()
@click.option("--events", default=60_000, show_default=True, help="Events in each envelope.")
@click.option("--rounds", default=7, show_default=True, help="How often each is decoded, in turns; the best counts.")
def main(events: int, rounds: int) -> None:
    """Print the CPU time that decode takes for an event, in µs, for each envelope."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as mapping:
        mapping.write(_SEGMENT_MAPPING)
        mapping.flush()
        named = {name: envelope(name) for name in ALL_MAKERS} | {"segment by mapping": mapping.name}
        records = {name: _records(ALL_MAKERS.get(name, ALL_MAKERS["segment"]), events) for name in named}
        best = dict.fromkeys(named, float("inf"))
        for _ in range(rounds):
            for name, value in named.items():
                best[name] = min(best[name], _microseconds(_decoder(value), records[name]))
        tolerant = _decoder("segment")
        tolerant._parse = _refuse
        best["segment, tolerant"] = _microseconds(tolerant, records["segment"])
    _show(best)


def _records(make: Callable[..., dict[str, Any]], n: int) -> list[Record]:
    rng = random.Random(1)
    start = datetime(2024, 12, 1, tzinfo=UTC).timestamp()
    return [Record(i, json.dumps(make(**_fields(rng, i, start))).encode()) for i in range(n)]


def _fields(rng: random.Random, i: int, start: float) -> dict[str, Any]:
    order = {"kind": "purchase", "order_id": f"o{i}", "amount": 25.5} if i % _ORDER_EVERY == 0 else {"kind": "view"}
    at = datetime.fromtimestamp(start + i / 10, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    product = {"item": f"p{rng.randrange(5_000)}", "category": "shoes", "quantity": 1, "currency": "USD"}
    return {"user": f"u{rng.randrange(10_000)}", "time": at, "event_id": f"m{i}", **product, **order}


def _decoder(value: str) -> Decoder:
    return Decoder(value, Money("USD"), bytes_max=1 << 20, future_skew_s=0)


def _refuse(_value: bytes) -> Any:
    raise ValueError


def _microseconds(decoder: Decoder, records: list[Record]) -> float:
    """CPU time of one event, in µs. Every event must be usable."""
    began = time.process_time()
    for first in range(0, len(records), _FETCH):
        decoded = decoder.decode(records[first : first + _FETCH], 2e9)
        assert len(decoded.batch) == len(records[first : first + _FETCH])
    return (time.process_time() - began) / len(records) * 1e6


def _show(found: Mapping[str, float]) -> None:
    for name, microseconds in found.items():
        click.echo(f"{name:<20}{microseconds:>8.2f} µs an event")


if __name__ == "__main__":
    main()
