"""State compared with a plain reference, for every order, repetition and batching of the same events."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.checkpoint import changelog
from stream.contract.columns import HISTORY_LEN, SEEN_LEN, WINDOWS
from stream.contract.events import EVENT, N_TYPES, EventBatch, EventType
from stream.contract.tokens import FEATURES
from stream.errors import ContractError
from stream.score.features import features, windows
from stream.state.partition_state import PartitionState
from tests.contract.packed_users import as_version
from tests.state import reference
from tests.state.reference import Plain

START = 1_700_000_000
DAY = 86_400


def batch(events: list[Plain], first_offset: int) -> EventBatch:
    rows = np.zeros(len(events), EVENT)
    rows["offset"] = first_offset + np.arange(len(events))
    for name in ("identity", "time", "type", "value", "category", "item"):
        rows[name] = [getattr(e, name) for e in events]
    return EventBatch([e.user for e in events], rows)


def fold(batches: list[list[Plain]], lateness_s: float = 10_000 * DAY) -> PartitionState:
    state = PartitionState(lateness_s)
    offset = 0
    for events in batches:
        state.apply(batch(events, offset))
        offset += len(events)
    return state


def same_second_key(e: Plain) -> tuple[int, ...]:
    return (e.time, e.type, e.value, e.category, e.item)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Plain], list[list[Plain]]]:
    """Events of a few users, and the same events shuffled, repeated and cut into batches."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 400))
    span = draw(st.sampled_from([60, 3_600, 2 * DAY, 45 * DAY]))
    users = draw(st.integers(1, 4))
    events = [
        Plain(
            time=START + rng.randrange(span),
            user=f"u{rng.randrange(users)}",
            identity=i + 1,
            type=rng.randrange(1, N_TYPES + 1),
            value=rng.randrange(-5_000, 50_000),
            category=rng.randrange(4),
            item=rng.randrange(9),
        )
        for i in range(n)
    ]
    arriving = _repeated_nearby(_shuffled(events, draw(st.sampled_from(["none", "near", "all"])), rng), rng)
    cuts = sorted(rng.randrange(len(arriving) + 1) for _ in range(draw(st.integers(0, 12))))
    batches = [arriving[a:b] for a, b in zip([0, *cuts], [*cuts, len(arriving)], strict=True)]
    return events, batches


def _shuffled(events: list[Plain], how: str, rng: random.Random) -> list[Plain]:
    if how == "none":
        return sorted(events)
    if how == "near":
        return sorted(events, key=lambda e: e.time + rng.randrange(600))
    return rng.sample(events, len(events))


def _repeated_nearby(events: list[Plain], rng: random.Random) -> list[Plain]:
    """Repeat a third of the events, each while its identity is still remembered."""
    out: list[Plain] = []
    by_user: dict[str, list[Plain]] = defaultdict(list)
    for e in events:
        out.append(e)
        by_user[e.user].append(e)
        if rng.random() < 0.33:
            out.append(rng.choice(by_user[e.user][-SEEN_LEN:]))
    return out


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams())
def test_state_equals_the_sorted_deduplicated_stream(stream: tuple[list[Plain], list[list[Plain]]]) -> None:
    events, batches = stream
    state = fold(batches)
    for user in {e.user for e in events}:
        expected = reference.events_of(events, user)
        snapshot = state.snapshot(np.array([state.index.row(user)]))
        row = snapshot.users[0]
        assert row["n_events"] == len(expected)
        assert row["revenue"] == sum(e.value for e in expected)
        assert row["orders"] == len(reference.orders(expected))
        assert (row["first_time"], row["last_time"]) == (expected[0].time, expected[-1].time)
        assert row["last_order_time"] == max((e.time for e in reference.orders(expected)), default=0)
        assert_history(snapshot, expected)
        for as_of in (expected[-1].time, expected[-1].time + 3 * DAY, expected[-1].time + 30 * DAY):
            assert_windows(snapshot, expected, as_of)


def assert_history(snapshot, expected: list[Plain]) -> None:
    kept = [tuple(e) for e in snapshot.history[0][["time", "type", "value", "category", "item"]].tolist()]
    kept = kept[: int(snapshot.users[0]["history_len"])]
    assert [t[0] for t in kept] == [e.time for e in expected][-HISTORY_LEN:]
    # If several events share the oldest second that is kept, any of them may stay. All later events must be there.
    oldest = kept[0][0]
    assert sorted(t for t in kept if t[0] > oldest) == sorted(same_second_key(e) for e in expected if e.time > oldest)


def assert_windows(snapshot, expected: list[Plain], as_of: int) -> None:
    counts, revenue = windows(snapshot, np.array([as_of]))
    row = dict(zip(FEATURES, features(snapshot, np.array([as_of]))[0].tolist(), strict=True))
    for w, name in enumerate(WINDOWS):
        by_type, value = reference.window(expected, name, as_of)
        assert counts[0, w].tolist() == [by_type[t] for t in EventType], name
        assert revenue[0, w] == value, name
    assert row["active_days_7d"] == reference.active_days(expected, 7, as_of)
    assert row["active_days_30d"] == reference.active_days(expected, 30, as_of)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams())
def test_packed_state_reads_back_and_goes_on_unchanged(
    stream: tuple[list[Plain], list[list[Plain]]],
) -> None:
    _, batches = stream
    half = len(batches) // 2
    straight, interrupted = fold(batches), fold(batches[:half])
    rows = np.arange(len(interrupted))
    recovered = PartitionState(10_000 * DAY)
    changelog.load(recovered, interrupted.ids, changelog.pack(interrupted, rows))
    recovered.watermark = interrupted.watermark
    offset = sum(map(len, batches[:half]))
    for events in batches[half:]:
        recovered.apply(batch(events, offset))
        offset += len(events)
    assert packed(recovered) == packed(straight)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams(), st.integers(0, 10_000))
def test_replaying_any_part_again_changes_nothing(stream: tuple[list[Plain], list[list[Plain]]], seed: int) -> None:
    _, batches = stream
    state = fold(batches)
    before = packed(state)
    arriving = [e for events in batches for e in events]
    start = random.Random(seed).randrange(len(arriving))
    applied = state.apply(batch(arriving[start:], start))
    assert packed(state) == before
    assert applied.n_accepted == 0


def packed(state: PartitionState) -> dict[str, bytes]:
    values = changelog.pack(state, np.arange(len(state)))
    return dict(zip(state.ids, values, strict=True))


def test_event_behind_the_lateness_is_left_out_and_listed() -> None:
    state = PartitionState(lateness_s=3_600)
    on_time, newest, late = Plain(START, "a", 1, 2), Plain(START + 7_200, "b", 2, 2), Plain(START + 3_599, "c", 3, 2)
    applied = state.apply(batch([on_time, newest, late], 0))
    assert applied.late.tolist() == [2]
    assert sorted(state.ids) == ["a", "b"]


def test_lateness_does_not_depend_on_how_the_stream_is_cut_into_batches() -> None:
    rng = random.Random(5)
    events = [Plain(START + rng.randrange(10_000), f"u{i % 7}", i + 1, 2) for i in range(300)]
    whole = fold([events], lateness_s=1_000)
    single = fold([[e] for e in events], lateness_s=1_000)
    assert packed(whole) == packed(single)
    assert sum(whole.users["n_events"]) < len(events)


def test_identity_is_forgotten_after_seen_len_others_and_not_before() -> None:
    first = Plain(START, "u", 1, 2)
    others = [Plain(START + i, "u", 1 + i, 2) for i in range(1, SEEN_LEN + 1)]
    remembered = fold([[first, *others[:-1], first]])
    forgotten = fold([[first, *others, first]])
    assert remembered.users[0]["n_events"] == SEEN_LEN
    assert forgotten.users[0]["n_events"] == SEEN_LEN + 2


def test_a_newer_packed_state_is_refused_with_both_versions() -> None:
    state = fold([[Plain(START, "u", 1, 2)]])
    value = changelog.pack(state, np.array([0]))[0]
    with pytest.raises(ContractError, match="state version is 9, this build reads 1 to 3"):
        changelog.load(PartitionState(0), ["u"], [b"\x09" + value[1:]])


def test_columns_are_copied_once_as_users_come() -> None:
    state = fold([[Plain(START, f"u{i}", i + 1, 2) for i in range(2_000)]])
    columns = state.users, state.history, state.seen, state.returned
    state.rows_of([f"v{i}" for i in range(50_000)])
    now = state.users, state.history, state.seen, state.returned
    assert all(column is before for column, before in zip(now, columns, strict=True))
    assert state.users["n_events"][:2_000].all()


def test_packed_value_of_a_new_user_is_small() -> None:
    state = fold([[Plain(START, "u", 1, 2)]])
    assert len(changelog.pack(state, np.array([0]))[0]) < 200


#: ``USER`` as version 1 wrote it. It is written out again here on purpose: such values lie in the topics of users.
USER_V1 = np.dtype(
    [
        *(("applied_offset", "<i8"), ("scored_offset", "<i8"), ("revenue", "<i8"), ("n_events", "<u4")),
        *(("orders", "<u4"), ("first_time", "<u4"), ("last_time", "<u4"), ("last_order_time", "<u4")),
        *(("alert_time", "<u4"), ("churn", "<f4"), ("purchase", "<f4"), ("ltv", "<f4"), ("history_len", "u1")),
        *(("history_next", "u1"), ("seen_len", "u1"), ("seen_next", "u1"), ("idle_stage", "u1"), ("alert_band", "u1")),
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams(), st.integers(0, 2**32))
def test_values_of_version_1_are_read_and_have_no_sentiment(
    stream: tuple[list[Plain], list[list[Plain]]], seed: int
) -> None:
    state = fold(stream[1])
    state.users["scored_offset"][: len(state)] = state.users["applied_offset"][: len(state)]
    values = changelog.pack(state, np.arange(len(state)))
    mixed = [as_version(v, 1) if random.Random(seed + i).random() < 0.7 else v for i, v in enumerate(values)]
    recovered = PartitionState(10_000 * DAY)
    changelog.load(recovered, state.ids, mixed)
    assert packed(recovered) == packed(state)
    assert recovered.unscored().tolist() == []


def test_newer_value_replaces_the_one_that_was_loaded_before() -> None:
    full = [Plain(START + i, "u", i + 1, 2) for i in range(HISTORY_LEN + 9)]
    before = fold([[*full, Plain(START, "v", 99, 2)]])
    before.await_sentiment(0, 3)
    after = fold([[Plain(START + DAY, "u", 500, 2)]])
    assert len(before.buckets) == 1
    both, fresh = PartitionState(10_000 * DAY), PartitionState(10_000 * DAY)
    changelog.load(both, before.ids, changelog.pack(before, np.arange(2)))
    changelog.load(both, after.ids, changelog.pack(after, np.arange(1)))
    changelog.load(fresh, ["u", "v"], [*changelog.pack(after, np.arange(1)), *changelog.pack(before, np.array([1]))])
    assert packed(both) == packed(fresh)


def test_windows_of_a_hot_user_stay_exact_past_the_history() -> None:
    rng = random.Random(3)
    events = [Plain(START + rng.randrange(40 * DAY), "hot", i + 1, 1 + i % N_TYPES, value=i) for i in range(20_000)]
    by_batch = defaultdict(list)
    for i, e in enumerate(rng.sample(events, len(events))):
        by_batch[i // 3_000].append(e)
    state = fold(list(by_batch.values()))
    snapshot = state.snapshot(np.array([0]))
    expected = reference.events_of(events, "hot")
    for as_of in (expected[-1].time, expected[-1].time + 5 * DAY):
        assert_windows(snapshot, expected, as_of)
