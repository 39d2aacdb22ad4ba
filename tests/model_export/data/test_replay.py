"""Replay: inputs are the state that would have served, at the right instants, and know nothing of the future."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from stream.contract.columns import DAY_S
from stream.contract.tokens import CHANNELS
from stream.decode.decoder import Decoder, Money
from stream.score.encode import encode
from stream.score.features import features
from stream.state.partition_state import PartitionState
from tests.model_export.data.shop_history import (
    DAYS,
    SNAPSHOTS,
    START,
    all_examples,
    data_set_of,
    first_sendings,
    log_of,
    raw_event,
    seconds_of,
    shoppers,
)


@pytest.mark.parametrize("seed", range(2))
def test_inputs_equal_an_independent_replay_of_each_user_up_to_the_instant(seed: int) -> None:
    events = shoppers(seed)
    data = data_set_of(log_of(events))
    examples = all_examples(data)
    assert {True, False} == set(examples.at_event.tolist())
    decoder = Decoder("segment", Money("USD"), bytes_max=10_000, future_skew_s=0)
    for i in range(len(examples)):
        user, as_of = data.names[examples.user[i]], int(examples.as_of[i])
        state = PartitionState(lateness_s=10 * DAYS * DAY_S)
        for offset, event in enumerate(events):
            if event["userId"] == user and seconds_of(event) <= as_of:
                record = SimpleNamespace(offset=offset, value=msgspec.json.encode(event))
                state.apply(decoder.decode([record], now=2e9).batch)
        snapshot = state.snapshot(np.array([0]))
        assert np.array_equal(examples.tokens[i], encode(snapshot, np.array([as_of]))[0])
        assert np.array_equal(examples.features[i], features(snapshot, np.array([as_of]))[0])
        assert examples.applied_offset[i] == snapshot.users["applied_offset"][0]


def test_inputs_stay_the_same_whatever_happens_later() -> None:
    events = shoppers(seed=5)
    cut = START.timestamp() + 40 * DAY_S
    before = [e for e in events if seconds_of(e) <= cut]
    rng = np.random.default_rng(0)
    after = [
        raw_event(10**5 + n, f"u{rng.integers(14)}", seconds, "Order Completed", product_id="later", total=999)
        for n, seconds in enumerate(np.sort(rng.uniform(40 * DAY_S + 1, DAYS * DAY_S, 500)).tolist())
    ]
    inputs = []
    for sent in (events, [*before, *after, events[-1]]):
        data = data_set_of(log_of(sent))
        examples = all_examples(data)
        early = examples.take(np.flatnonzero(examples.as_of <= cut))
        assert len(early) > 100
        names = [data.names[u] for u in early.user]
        inputs.append([names, early.as_of, early.tokens, early.features, early.applied_offset, early.at_event])
    for was, now in zip(*inputs, strict=True):
        assert np.array_equal(was, now)


def test_a_signal_planted_in_the_future_is_in_no_input_before_it_happens() -> None:
    planted = START.timestamp() + 45 * DAY_S
    events = [
        *shoppers(seed=6)[:-1],
        *(raw_event(10**5 + n, f"u{n}", 45 * DAY_S, "Product Viewed", category="tell-tale") for n in range(14)),
    ]
    events = [*sorted(events, key=seconds_of), raw_event(10**6, "last", DAYS * DAY_S, "Product Viewed")]
    log = log_of(events)
    token = int(log.rows["category"][log.rows["time"] == int(planted)][0])
    assert (log.rows["category"] == token).sum() == 14
    examples = all_examples(data_set_of(log))
    seen = (examples.tokens[:, :, CHANNELS.index("category")] == token).any(axis=1)
    assert not seen[examples.as_of < planted].any()
    assert seen[examples.as_of >= planted].any()


def test_users_with_a_horizon_beyond_the_end_of_the_data_are_left_out_and_counted() -> None:
    events = first_sendings(shoppers(seed=8))
    snapshots_only = msgspec.structs.replace(SNAPSHOTS, at_event=0)
    data = data_set_of(log_of(events), snapshots_only)
    end = int(START.timestamp()) + DAYS * DAY_S
    expected = 0
    for t in range(end - 8 * DAY_S + 4 * DAY_S, end + 1, 4 * DAY_S):
        expected += len({e["userId"] for e in events if t - 10 * DAY_S < seconds_of(e) <= t})
    assert expected > 0
    assert data.left_out["censored"] == expected


def test_a_snapshot_holds_exactly_the_users_active_in_the_eligible_days() -> None:
    events = shoppers(seed=9)
    data = data_set_of(log_of(events), msgspec.structs.replace(SNAPSHOTS, at_event=0))
    examples = all_examples(data)
    for t in np.unique(examples.as_of).tolist():
        active = {e["userId"] for e in events if t - 10 * DAY_S < seconds_of(e) <= t}
        assert {data.names[u] for u in examples.user[examples.as_of == t]} == active


def test_examples_at_events_are_at_an_event_of_their_user_and_once_each() -> None:
    events = shoppers(seed=10)
    data = data_set_of(log_of(events))
    examples = all_examples(data)
    happened = {(e["userId"], seconds_of(e)) for e in events}
    instants = [
        (data.names[u], int(t)) for u, t in zip(examples.user, examples.as_of, strict=True)
    ]  # fmt: skip
    taken = [instant for instant, at_event in zip(instants, examples.at_event, strict=True) if at_event]
    assert set(taken) <= happened
    assert len(set(taken)) == len(taken) > 50
