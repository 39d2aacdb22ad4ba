"""Score records: a reader of one release understands the records of another."""

from __future__ import annotations

import msgspec

from stream.contract.score import Churn, LifetimeValue, ModelRef, NextCategory, Purchase, Score

FULL = Score(
    score_id="s",
    user_id="ann",
    as_of="2025-05-01T12:34:56Z",
    model=ModelRef("m", "1", "a" * 64),
    n_events=57,
    data_sufficiency="ok",
    churn=Churn(0.83, "high", 14, 92.5, (0.79, 0.86)),
    purchase=[Purchase(0.12, 7, 30.0, (0.1, 0.14)), Purchase(0.31, 30, 25.0, (0.28, 0.34))],
    ltv=LifetimeValue(41.2, 0.69, "EUR", 30, 66.0, (0.0, 96.5)),
    applied_offset=7,
    expected_next_purchase="2025-07-01",
    next_category=[NextCategory("shoes", 0.4)],
)
#: A score as the first release wrote it.
FIRST = (
    b'{"schema":"valuestream.score.v1","score_id":"s","user_id":"ann","as_of":"2025-05-01T12:34:56Z",'
    b'"model":{"name":"m","version":"1","sha256":"' + b"a" * 64 + b'"},"n_events":57,"data_sufficiency":"ok",'
    b'"churn":{"probability":0.83,"band":"high","horizon_days":14},'
    b'"purchase":[{"probability":0.12,"horizon_days":7},{"probability":0.31,"horizon_days":30}],'
    b'"ltv":{"expected":41.2,"p_zero":0.69,"currency":"EUR","horizon_days":30},"applied_offset":7}'
)


def test_record_reads_back_as_it_was_written() -> None:
    assert msgspec.json.decode(msgspec.json.encode(FULL), type=Score) == FULL


def test_record_of_the_first_release_reads_without_the_fields_added_later() -> None:
    found = msgspec.json.decode(FIRST, type=Score)
    assert (found.churn.percentile, found.churn.interval, found.ltv.interval) == (None, None, None)
    assert (found.expected_next_purchase, found.next_category) == (None, [])
    assert found.purchase[1].probability == 0.31


def test_reader_of_the_first_release_finds_every_field_where_it_was() -> None:
    now, then = msgspec.json.decode(msgspec.json.encode(FULL)), msgspec.json.decode(FIRST)
    for part in ("churn", "ltv"):
        assert {name: now[part][name] for name in then[part]} == then[part]
    assert list(now)[: len(then)] == list(then)
