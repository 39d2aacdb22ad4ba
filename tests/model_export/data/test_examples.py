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
from sklearn.metrics import roc_auc_score

from model_export.baselines.trees import LightGbm
from model_export.data.event_log import DataConfig, EventLog, load, read_log
from model_export.data.examples import Dataset, Examples, Plan, Windows, build
from model_export.run_folder import predict
from model_export.training.fit import FitConfig, fit
from stream.contract.columns import DAY_S
from stream.contract.manifest import Labels
from stream.contract.tokens import CHANNELS
from stream.decode.decoder import Decoder, Money, hash_bucket
from stream.errors import ConfigError
from stream.score.encode import encode
from stream.score.features import features
from stream.state.partition_state import PartitionState
from tests.model_export.small import SMALL, task

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 80
LABELS = Labels(eligible_days=10, churn_days=5, purchase_days=(3, 8), value_days=8)
PLAN = Plan(every_days=4, window_days=8)
SEED = 7
WINDOWS = ("train", "validation", "recent", "test")
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
        category = item[:2] if rng.random() < 0.8 else None
        event = raw_event(n, user, seconds, str(rng.choice(NAMES)), product_id=item, category=category, total=total)
        out += [event] * (2 if rng.random() < 0.05 else 1)
    # The same last event whatever else happens, so that changed histories have the same windows.
    return [*out, raw_event(10**6, "last", DAYS * DAY_S, "Product Viewed")]


def log_of(events: list[Raw]) -> EventLog:
    values = map(msgspec.json.encode, events)
    return read_log(values, envelope="segment", currency="USD", events_max=100_000)


def made(log: EventLog, plan: Plan = PLAN) -> Dataset:
    return build(log, LABELS, plan, SEED)


def all_examples(data: Dataset) -> Examples:
    """Those of the windows that share no instant."""
    return Examples.joined((data.train, data.validation, data.test))


def seconds_of(event: Raw) -> int:
    return int(datetime.fromisoformat(event["timestamp"]).timestamp())


def first_sendings(events: list[Raw]) -> list[Raw]:
    return list({e["messageId"]: e for e in events}.values())


@pytest.mark.parametrize("seed", range(2))
def test_examples_equal_an_independent_replay_of_each_user_up_to_the_instant(seed: int) -> None:
    events = shoppers(seed)
    data = made(log_of(events))
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
    data = made(log_of(events))
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
        named = [e["properties"]["category"] for e in within(8) if e["properties"].get("category")]
        assert examples.category[i] == (hash_bucket(named[0]) if named else 0)
    assert 0 < (examples.category == 0).mean() < 1


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
        data = made(log_of(history))
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
    examples = all_examples(made(log))
    seen = (examples.tokens[:, :, CHANNELS.index("category")] == token).any(axis=1)
    assert not seen[examples.as_of < planted].any()
    assert seen[examples.as_of >= planted].any()


def test_recent_is_the_training_window_moved_up_until_its_labels_close_with_the_first_test_instant() -> None:
    windows = Windows.of((0, DAYS * DAY_S), LABELS, PLAN)
    horizon, width = 8 * DAY_S, 8 * DAY_S
    assert windows.recent == tuple(t + horizon + width for t in windows.train)
    assert windows.recent[1] + horizon == windows.test[0]
    assert windows.train[1] + horizon == windows.validation[0]
    assert windows.validation[1] + horizon == windows.test[0]
    assert windows.test == ((DAYS - 16) * DAY_S, (DAYS - 8) * DAY_S)
    assert windows.train[0] == 4 * DAY_S


@pytest.mark.parametrize("days", [5.0, 12.0, 1_000.0])
def test_training_window_is_as_long_as_train_days_and_no_longer_than_the_data(days: float) -> None:
    plan = msgspec.structs.replace(PLAN, train_days=days)
    windows = Windows.of((0, DAYS * DAY_S), LABELS, plan)
    first, last = windows.train
    assert last - first == min(days * DAY_S, last - 4 * DAY_S)
    # The end stays where it was: what is cut off is the oldest.
    assert last == Windows.of((0, DAYS * DAY_S), LABELS, PLAN).train[1]


@pytest.mark.parametrize("plan", [PLAN, Plan(every_days=3, window_days=0, train_days=20, at_event=1)])
def test_all_examples_of_a_window_lie_within_its_bounds_and_no_instant_is_in_two_but_recent(plan: Plan) -> None:
    data = made(log_of(shoppers(seed=13)), plan)
    windows = Windows.of(data.span, LABELS, plan)
    instants = {}
    for name in WINDOWS:
        as_of = getattr(data, name).as_of
        first, last = getattr(windows, name)
        assert len(as_of) > 0
        assert first <= as_of.min() <= as_of.max() <= last
        instants[name] = set(as_of.tolist())
    assert not instants["train"] & instants["validation"]
    assert not instants["test"] & (instants["train"] | instants["validation"] | instants["recent"])
    assert data.recent.as_of.max() + 8 * DAY_S <= data.test.as_of.min()


def test_examples_that_recent_shares_with_another_window_are_the_same() -> None:
    data = made(log_of(shoppers(seed=14)))
    rows = {
        name: {key: i for i, key in enumerate(zip(p.user.tolist(), p.as_of.tolist(), p.at_event.tolist(), strict=True))}
        for name, p in (("recent", data.recent), ("validation", data.validation))
    }
    shared = sorted(set(rows["recent"]) & set(rows["validation"]))
    assert len(shared) > 10
    recent = data.recent.take(np.array([rows["recent"][key] for key in shared]))
    validation = data.validation.take(np.array([rows["validation"][key] for key in shared]))
    for field in fields(Examples):
        assert np.array_equal(getattr(recent, field.name), getattr(validation, field.name)), field.name


def test_log_until_an_instant_is_the_log_that_was_known_then() -> None:
    events = shoppers(seed=15)
    cut = int(START.timestamp()) + 62 * DAY_S
    # Someone did something at the very second: it is known.
    events = sorted([*events, raw_event(10**7, "u1", 62 * DAY_S, "Product Viewed")], key=seconds_of)
    known = log_of([e for e in events if seconds_of(e) <= cut])
    until = log_of(events).until(cut)
    assert len(until) == len(known) < len(log_of(events))
    assert until.span == known.span == (known.span[0], cut)
    assert np.array_equal(until.rows, known.rows)
    was, now = made(known), made(until)
    for name in WINDOWS:
        for field in fields(Examples):
            found = getattr(getattr(now, name), field.name)
            assert np.array_equal(getattr(getattr(was, name), field.name), found), field.name


# -- a signal planted in the future -----------------------------------------------------------------------

#: Everyone is eligible, and every label window lies between an instant and the next.
PERIOD_DAYS, PERIODS, PEOPLE = 6, 10, 300
TOLD = Labels(eligible_days=90, churn_days=5, purchase_days=(5,), value_days=5)
TELLING = Plan(every_days=PERIOD_DAYS, window_days=1, at_event=0)


def told(when: str, swapped: bool = False) -> Dataset:
    """Who churns is tossed anew at every instant; an order's item, category and value tell it without fail.

    ``when`` is "after" the instant, or "before" it, as a leak would have it. ``swapped``: the last instant's tell is
    the wrong one.
    """
    stays = np.random.default_rng(0).random((PERIODS, PEOPLE)) < 0.5
    events = [raw_event(user, f"u{user}", 3_600, "Product Viewed", category="hello") for user in range(PEOPLE)]
    for (period, user), stay in np.ndenumerate(stays):
        instant = (1 + period * PERIOD_DAYS) * DAY_S
        active = instant + (DAY_S if stay else round(5.5 * DAY_S))
        n = 1_000 * (1 + period) + user
        says = stay != (swapped and period == PERIODS - 1)
        tell = {"product_id": f"p{says}", "category": f"c{says}", "total": 900 if says else 5}
        at = active if when == "after" else instant - 60
        events.append(raw_event(n, f"u{user}", at, "Order Completed", **tell))
        events.append(raw_event(10**6 + n, f"u{user}", active + 60, "Order Completed", category="any", total=20))
    end = (1 + (PERIODS - 1) * PERIOD_DAYS + 5) * DAY_S
    events = [e for e in events if seconds_of(e) < START.timestamp() + end]
    events = [*sorted(events, key=seconds_of), raw_event(10**8, "last", end, "Product Viewed")]
    return build(log_of(events), TOLD, TELLING, SEED)


def churn_aucs(data: Dataset) -> dict[str, float]:
    """AUC of churn on the test window: of the network, and of boosted trees on features and on newest categories."""
    config = FitConfig(epochs=4, batch_size=64, learning_rate=1e-2, patience=4, value_weight=0.0, purchase_weight=0.0)
    network = fit(task(config, model=SMALL), data.train, data.validation).network
    newest = CHANNELS.index("category")
    trees = LightGbm(1, lambda part: np.column_stack((part.features, part.tokens[:, :, newest])))
    trees.fit(data.train, data.validation, TOLD)
    test = data.test
    scores = {
        "network": predict(network, test.tokens, test.features).churn,
        "lightgbm": trees.predict(test).logits[:, 0],
    }
    return {name: roc_auc_score(test.churn, score) for name, score in scores.items()}


def test_planted_future_only_signal_is_seen_by_no_model_and_would_be_if_it_leaked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model_export.baselines.trees._ROUNDS_MAX", 30)
    data, leaked = told("after"), told("before")
    assert len(data.train) > 1_000
    assert np.array_equal(data.test.churn, leaked.test.churn)
    # 300 users: the AUC of a guess has a standard deviation of 0.033.
    for name, auc in churn_aucs(data).items():
        assert abs(auc - 0.5) < 0.12, name
    for name, auc in churn_aucs(leaked).items():
        assert auc > 0.95, name


def test_inputs_do_not_change_with_a_signal_planted_in_their_future() -> None:
    data, swapped = told("after"), told("after", swapped=True)
    assert set(data.test.value) == {0.0, 920.0}
    assert set(swapped.test.value) == {0.0, 25.0}
    assert np.array_equal(data.test.tokens, swapped.test.tokens)
    assert np.array_equal(data.test.features, swapped.test.features)
    leaked = told("before", swapped=True)
    assert not np.array_equal(leaked.test.features, told("before").test.features)


# -- windows ----------------------------------------------------------------------------------------------


def test_each_window_begins_after_all_labels_of_the_one_before_are_known() -> None:
    data = made(log_of(shoppers(seed=7)))
    horizon = 8 * DAY_S
    assert data.train.as_of.max() + horizon <= data.validation.as_of.min()
    assert data.validation.as_of.max() + horizon <= data.test.as_of.min()
    assert data.test.as_of.max() + horizon <= data.span[1]
    assert min(len(data.train), len(data.validation), len(data.test)) > 0


def test_users_whose_horizon_passes_the_end_of_the_data_are_left_out_and_counted() -> None:
    events = first_sendings(shoppers(seed=8))
    plan = msgspec.structs.replace(PLAN, at_event=0)
    data = made(log_of(events), plan)
    end = int(START.timestamp()) + DAYS * DAY_S
    expected = 0
    for t in range(end - 8 * DAY_S + 4 * DAY_S, end + 1, 4 * DAY_S):
        expected += len({e["userId"] for e in events if t - 10 * DAY_S < seconds_of(e) <= t})
    assert expected > 0
    assert data.left_out["censored"] == expected


def test_a_snapshot_holds_exactly_the_users_active_in_the_eligible_days() -> None:
    events = shoppers(seed=9)
    data = made(log_of(events), msgspec.structs.replace(PLAN, at_event=0))
    examples = all_examples(data)
    for t in np.unique(examples.as_of).tolist():
        active = {e["userId"] for e in events if t - 10 * DAY_S < seconds_of(e) <= t}
        assert {data.names[u] for u in examples.user[examples.as_of == t]} == active


def test_examples_at_events_are_at_an_event_of_their_user_and_once_each() -> None:
    events = shoppers(seed=10)
    data = made(log_of(events))
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
        data = made(log_of(history), msgspec.structs.replace(PLAN, at_event=0))
        examples = all_examples(data)
        keys = [f"{data.names[u]} {t}" for u, t in zip(examples.user, examples.as_of, strict=True)]
        order = np.argsort(keys)
        parts.append([sorted(keys), examples.tokens[order], examples.features[order], examples.value[order]])
    for was, now in zip(*parts, strict=True):
        assert np.array_equal(was, now)


def test_more_examples_than_the_bound_are_thinned_alike_for_a_seed() -> None:
    log = log_of(shoppers(seed=12))
    plan = msgspec.structs.replace(PLAN, examples_max=40)
    first, second = made(log, plan), made(log, plan)
    assert len(first.train) == len(first.test) == 40
    assert np.array_equal(first.train.as_of, second.train.as_of)


def test_too_short_a_history_says_how_many_days_it_has_and_needs() -> None:
    with pytest.raises(ConfigError, match=r"spans 20 days, expected at least 44 for a horizon of 8 days"):
        Windows.of((0, 20 * DAY_S), LABELS, PLAN)


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
    values = [*map(msgspec.json.encode, shoppers(1)), b"{", b"{}"]
    log = read_log(values, envelope="segment", currency="USD", events_max=10_000)
    assert log.dropped == {"malformed": 1, "schema": 1}


@pytest.mark.data
def test_uci_examples_agree_with_its_invoices(data_dir: Path) -> None:
    source = str(data_dir / "uci_online_retail.parquet")
    log = load(DataConfig(source=source, format="uci-online-retail"))
    labels = Labels(eligible_days=180, churn_days=60, purchase_days=(60,), value_days=60)
    data = build(log, labels, Plan(every_days=30, window_days=14), SEED)
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
