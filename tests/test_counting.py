"""Tests of counting: a worker that can use few of its first records says so, once."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from stream.counting import FirstRecords
from stream.decode.decoder import Decoded, Decoder, Money


def decoded(envelope: str, n_views: int, n_others: int) -> Decoded:
    """A fetch of flat views and of records that are no JSON."""
    view = json.dumps({"type": "view", "user_id": "u", "ts": 1_735_600_000}).encode()
    records = [SimpleNamespace(offset=i, value=view if i < n_views else b"?") for i in range(n_views + n_others)]
    return Decoder(envelope, Money("USD"), bytes_max=1_000, future_skew_s=0).decode(records, 2e9)


@pytest.mark.parametrize(
    ("envelope", "n_views", "n_others", "says"),
    [("segment", 1_000, 0, True), ("flat", 1_000, 0, False), ("flat", 499, 501, True), ("flat", 500, 500, False)],
)
def test_a_worker_says_once_that_it_can_use_few_of_its_first_records(
    caplog: pytest.LogCaptureFixture, envelope: str, n_views: int, n_others: int, says: bool
) -> None:
    first = FirstRecords("events")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            first.note(n_views + n_others, decoded(envelope, n_views, n_others))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == int(says)
    assert all("valuestream events check --topic events" in line for line in lines)


def test_it_waits_for_enough_records(caplog: pytest.LogCaptureFixture) -> None:
    first = FirstRecords("events")
    with caplog.at_level(logging.WARNING):
        first.note(999, decoded("segment", 999, 0))
        assert not caplog.records
        first.note(1, decoded("segment", 1, 0))
    assert len(caplog.records) == 1
