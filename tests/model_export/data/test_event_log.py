"""Event log: what cannot be read is counted, and an earlier log is the one that was known then."""

from __future__ import annotations

from dataclasses import fields

import msgspec
import numpy as np
import pytest

from model_export.data.event_log import DataConfig, decoder_of, read_log
from model_export.data.examples import Examples
from model_export.data.splits import SPLITS
from stream.contract.columns import DAY_S
from stream.errors import ConfigError
from tests.model_export.data.shop_history import START, data_set_of, log_of, raw_event, seconds_of, shoppers


def test_log_until_an_instant_is_the_log_that_was_known_then() -> None:
    events = shoppers(seed=15)
    cut = int(START.timestamp()) + 62 * DAY_S
    # An event in the very second is known.
    events = sorted([*events, raw_event(10**7, "u1", 62 * DAY_S, "Product Viewed")], key=seconds_of)
    known = log_of([e for e in events if seconds_of(e) <= cut])
    until = log_of(events).until(cut)
    assert len(until) == len(known) < len(log_of(events))
    assert until.span == known.span == (known.span[0], cut)
    assert np.array_equal(until.rows, known.rows)
    was, now = data_set_of(known), data_set_of(until)
    for split in SPLITS:
        for field in fields(Examples):
            column = getattr(getattr(now, split), field.name)
            assert np.array_equal(getattr(getattr(was, split), field.name), column), field.name


@pytest.mark.parametrize(
    ("values", "events_max", "message"),
    [
        (
            [b"{}", b"no json", b'{"type":"identify"}'],
            10,
            r"no usable event \(dropped: 1 ignored, 1 malformed, 1 schema\)",
        ),
        ([msgspec.json.encode(e) for e in shoppers(1)], 100, r"more than 100 events"),
    ],
)
def test_an_unusable_data_set_is_refused_in_one_line(values: list[bytes], events_max: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read_log(values, decoder_of(DataConfig(currency="USD")), events_max=events_max)
    assert "\n" not in str(refused.value)


def test_events_that_cannot_be_read_are_counted_by_reason() -> None:
    values = [*map(msgspec.json.encode, shoppers(1)), b"{", b"{}"]
    log = read_log(values, decoder_of(DataConfig(currency="USD")), events_max=10_000)
    assert log.dropped == {"malformed": 1, "schema": 1}
