"""Training examples: the state that served, the labels that followed, and nothing of the one in the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from model_export.dataset import Dataset, Examples, Plan, Windows, build
from model_export.history import DataConfig, EventLog, load, read_log
from stream.contract.columns import DAY_S
from stream.contract.manifest import Labels
from stream.contract.tokens import CHANNELS
from stream.decode import Decoder, Money
from stream.encode import encode
from stream.errors import ConfigError
from stream.features import features
from stream.state import PartitionState

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 80
PLAN = Plan(Labels(eligible_days=10, churn_days=5, purchase_days=(3, 8), value_days=8), every_days=4, window_days=8)
NAMES = ("Product Viewed", "Product Viewed", "Product Added", "Order Completed", "Order Refunded", "Product Reviewed")

Raw = dict[str, Any]


def raw_event(n: int, user: str, seconds: float, name: str, **properties: Any) -> Raw:
    when = (START + timedelta(seconds=round(seconds))).isoformat()
    return {
        "type": "track", "event": name, "messageId": f"m{n}", "userId": user, "timestamp": when,
        "properties": properties,
    }  # fmt: skip


def shoppers(seed: int, users: int = 14, events: int = 900) -> list[Raw]:
    """Random events in event-time order, some of them sent twice, and one user with more than a history holds."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, DAYS * DAY_S, events))
    out = []
    for n, seconds in enumerate(times.tolist()):
        user = "busy" if rng.random() < 0.2 else f"u{rng.integers(users)}"
        total = round(float(rng.lognormal(3, 1)), 2)
        item = f"p{rng.integers(30)}"
        event = raw_event(n, user, seconds, str(rng.choice(NAMES)), product_id=item, category=item[:2], total=total)
        out += [event] * (2 if rng.random() < 0.05 else 1)
    # The same last event whatever else happens, so that changed histories have the same windows.
    return [*out, raw_event(10**6, "last", DAYS * DAY_S, "Product Viewed")]


def log_of(events: list[Raw]) -> EventLog:
    values = map(msgspec.json.encode, events)
    return read_log(values, envelope="segment", currency="USD", events_max=100_000)


def all_examples(data: Dataset) -> Examples:
    parts = (data.train, data.validation, data.test)
    return Examples(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Examples)))


def seconds_of(event: Raw) -> int:
    return int(datetime.fromisoformat(event["timestamp"]).timestamp())


def first_sendings(events: list[Raw]) -> list[Raw]:
    return list({e["messageId"]: e for e in events}.values())


@pytest.mark.parametrize("seed", range(3))
def test_examples_equal_an_independent_replay_of_each_user_up_to_the_instant(seed: int) -> None:
    events = shoppers(seed)
    data = build(log_of(events), PLAN)
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


@pytest.mark.parametrize("seed", range(3))
def test_labels_equal_a_count_by_hand(seed: int) -> None:
    events = shoppers(seed)
    data = build(log_of(events), PLAN)
    examples = all_examples(data)
    for i in range(len(examples)):
        own = [e for e in first_sendings(events) if e["userId"] == data.names[examples.user[i]]]
        ages = [(seconds_of(e) - int(examples.as_of[i]), e) for e in own]

        def within(days: float, ages: list[tuple[int, Raw]] = ages) -> list[Raw]:
            return [e for age, e in ages if 0 < age <= days * DAY_S]

        assert examples.churn[i] == (not within(5))
        orders = [[e["event"] == "Order Completed" for e in within(days)] for days in (3, 8)]
        assert examples.purchase[i].tolist() == [any(found) for found in orders]
        signs = {"Order Completed": 1, "Order Refunded": -1}
        net = sum(signs.get(e["event"], 0) * e["properties"]["total"] for e in within(8))
        assert examples.value[i] == pytest.approx(max(net, 0), abs=1e-6)


def test_no_input_changes_with_what_happens_later() -> None:
    events = shoppers(seed=5)
    cut = START.timestamp() + 40 * DAY_S
    before = [e for e in events if seconds_of(e) <= cut]
    rng = np.random.default_rng(0)
    after = [
        raw_event(10**5 + n, f"u{rng.integers(14)}", seconds, "Order Completed", product_id="later", total=999)
        for n, seconds in enumerate(np.sort(rng.uniform(40 * DAY_S + 1, DAYS * DAY_S, 500)).tolist())
    ]
    inputs = []
    for history in (events, [*before, *after, events[-1]]):
        data = build(log_of(history), PLAN)
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
    told = int(log.rows["category"][log.rows["time"] == int(planted)][0])
    token = 1 + (told - 1) % 511
    others = {1 + (int(c) - 1) % 511 for c in log.rows["category"] if c not in (0, told)}
    assert token not in others
    examples = all_examples(build(log, PLAN))
    seen = (examples.tokens[:, :, CHANNELS.index("category")] == token).any(axis=1)
    assert not seen[examples.as_of < planted].any()
    assert seen[examples.as_of >= planted].any()


def test_each_window_begins_after_all_labels_of_the_one_before_are_known() -> None:
    data = build(log_of(shoppers(seed=7)), PLAN)
    horizon = 8 * DAY_S
    assert data.train.as_of.max() + horizon <= data.validation.as_of.min()
    assert data.validation.as_of.max() + horizon <= data.test.as_of.min()
    assert data.test.as_of.max() + horizon <= data.span[1]
    assert min(len(data.train), len(data.validation), len(data.test)) > 0


def test_users_whose_horizon_passes_the_end_of_the_data_are_left_out_and_counted() -> None:
    events = first_sendings(shoppers(seed=8))
    plan = msgspec.structs.replace(PLAN, at_event=0)
    data = build(log_of(events), plan)
    end = int(START.timestamp()) + DAYS * DAY_S
    expected = 0
    for t in range(end - 8 * DAY_S + 4 * DAY_S, end + 1, 4 * DAY_S):
        expected += len({e["userId"] for e in events if t - 10 * DAY_S < seconds_of(e) <= t})
    assert expected > 0
    assert data.left_out["censored"] == expected


def test_a_snapshot_holds_exactly_the_users_active_in_the_eligible_days() -> None:
    events = shoppers(seed=9)
    data = build(log_of(events), msgspec.structs.replace(PLAN, at_event=0))
    examples = all_examples(data)
    for t in np.unique(examples.as_of).tolist():
        active = {e["userId"] for e in events if t - 10 * DAY_S < seconds_of(e) <= t}
        assert {data.names[u] for u in examples.user[examples.as_of == t]} == active


def test_examples_at_events_are_at_an_event_of_their_user_and_once_each() -> None:
    events = shoppers(seed=10)
    data = build(log_of(events), PLAN)
    examples = all_examples(data)
    happened = {(e["userId"], seconds_of(e)) for e in events}
    instants = [
        (data.names[u], int(t)) for u, t in zip(examples.user, examples.as_of, strict=True)
    ]  # fmt: skip
    taken = [instant for instant, at_event in zip(instants, examples.at_event, strict=True) if at_event]
    assert set(taken) <= happened
    assert len(set(taken)) == len(taken) > 50


def test_lines_out_of_order_give_the_examples_of_the_sorted_file() -> None:
    events = first_sendings(shoppers(seed=11))
    shuffled = [events[i] for i in np.random.default_rng(0).permutation(len(events))]
    parts = []
    for history in (events, shuffled):
        data = build(log_of(history), msgspec.structs.replace(PLAN, at_event=0))
        examples = all_examples(data)
        keys = [f"{data.names[u]} {t}" for u, t in zip(examples.user, examples.as_of, strict=True)]
        order = np.argsort(keys)
        parts.append([sorted(keys), examples.tokens[order], examples.features[order], examples.value[order]])
    for was, now in zip(*parts, strict=True):
        assert np.array_equal(was, now)


def test_more_examples_than_the_bound_are_thinned_alike_for_a_seed() -> None:
    log = log_of(shoppers(seed=12))
    plan = msgspec.structs.replace(PLAN, examples_max=40)
    first, second = build(log, plan), build(log, plan)
    assert len(first.train) == len(first.test) == 40
    assert np.array_equal(first.train.as_of, second.train.as_of)


def test_too_short_a_history_says_how_many_days_it_has_and_needs() -> None:
    with pytest.raises(ConfigError, match=r"spans 20 days, expected at least 44 for a horizon of 8 days"):
        Windows.of((0, 20 * DAY_S), PLAN)


@pytest.mark.parametrize(
    ("values", "most", "message"),
    [
        (
            [b"{}", b"no json", b'{"type":"identify"}'],
            10,
            r"no usable event \(dropped: 1 ignored, 1 malformed, 1 schema\)",
        ),
        ([msgspec.json.encode(e) for e in shoppers(1)], 100, r"more than 100 events"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_in_one_line(values: list[bytes], most: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read_log(values, envelope="segment", currency="USD", events_max=most)
    assert "\n" not in str(refused.value)


def test_events_that_cannot_be_read_are_counted_by_reason() -> None:
    values = [*map(msgspec.json.encode, shoppers(1)), b"{", b"[1]"]
    log = read_log(values, envelope="segment", currency="USD", events_max=10_000)
    assert log.dropped == {"malformed": 1, "schema": 1}


@pytest.mark.data
def test_uci_examples_agree_with_its_invoices(data_dir: Path) -> None:
    source = str(data_dir / "uci_online_retail.parquet")
    log = load(DataConfig(source=source, format="uci-online-retail"))
    labels = Labels(eligible_days=180, churn_days=60, purchase_days=(60,), value_days=60)
    data = build(log, Plan(labels, every_days=30, window_days=14))
    buyers: Callable[[int, int], set[int]] = lambda first, last: set(  # noqa: E731
        log.users[(log.rows["time"] > first) & (log.rows["time"] <= last) & (log.rows["value"] > 0)].tolist()
    )
    test = data.test.take(np.flatnonzero(~data.test.at_event))
    t = int(test.as_of.max())
    at = test.take(np.flatnonzero(test.as_of == t))
    assert len(at) > 2_000
    bought = buyers(t, t + 60 * DAY_S)
    assert np.array_equal(at.purchase[:, 0] > 0, [u in bought for u in at.user.tolist()])
    assert 0.3 < at.purchase.mean() < 0.7
