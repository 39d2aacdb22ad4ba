"""State of earlier releases is read exactly. Newer or damaged state is refused before it does harm."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.checkpoint import changelog
from stream.checkpoint.position import Position
from stream.contract.columns import BUCKET_SLOTS, FRESH_USER, STATE_VERSION, USER, USER_BYTES
from stream.contract.manifest import MANIFEST_FILE, read_manifest
from stream.contract.score import Alert, Score
from stream.contract.tokens import FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ContractError
from stream.score.features import features
from stream.score.scorer import DEMO_MODEL
from stream.state.partition_state import PartitionState
from tests.contract.fixtures import make_state
from tests.contract.fixtures.make_state import DAY_S, HISTORIES, ORDERS, holds

FIXTURES = Path(make_state.__file__).parent
Fixture = dict[str, dict[str, Any]]


def fixture(version: int) -> Fixture:
    """User → ``value``, as that release packed it, and ``holds``, what the user held."""
    lines = (FIXTURES / f"state-v{version}.jsonl").read_text(encoding="utf-8").splitlines()
    users = {line["user"]: line for line in map(json.loads, lines)}
    return {user: {**line, "value": base64.b64decode(line["value"])} for user, line in users.items()}


def loaded(values: dict[str, bytes]) -> PartitionState:
    state = make_state.new_state()
    assert changelog.load(state, list(values), list(values.values())).tolist() == list(range(len(values)))
    return state


def held(state: PartitionState) -> dict[str, Any]:
    """What every user holds, in the form of the fixtures."""
    return {user: json.loads(json.dumps(holds(state, row))) for row, user in enumerate(state.ids)}


def expected(users: Fixture) -> dict[str, Any]:
    """What every user held. Columns that their release did not have are those of a new user of the state that reads."""
    fresh = {name: make_state.plain(FRESH_USER[name][0]) for name in USER.names or ()} | {"currency": "USD"}
    rings = ("history_len", "history_next", "seen_len", "seen_next")
    lacking = {name: value for name, value in fresh.items() if name not in rings}
    return {
        user: {"orders": [], **line["holds"], "columns": {**lacking, **line["holds"]["columns"]}}
        for user, line in users.items()
    }


@pytest.fixture(params=USER_BYTES)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_fixtures_are_of_the_version_in_their_name_and_hold_every_kind_of_user(version: int) -> None:
    users = fixture(version)
    assert users.keys() == (HISTORIES | ORDERS if version >= 3 else HISTORIES).keys()
    assert {line["value"][0] for line in users.values()} == {version}
    lengths = {len(line["holds"]["history"]) for line in users.values()}
    assert {1, 64} < lengths
    assert any(line["holds"]["buckets"] for line in users.values())


def test_state_of_this_and_earlier_releases_reads_back_exactly(version: int) -> None:
    users = fixture(version)
    state = loaded({user: line["value"] for user, line in users.items()})
    assert held(state) == expected(users)


def test_values_of_several_versions_may_come_in_one_batch_in_any_order() -> None:
    users = {f"{user} {v}": line for v in USER_BYTES for user, line in fixture(v).items()}
    shuffled = {user: users[user] for user in sorted(users, key=hash)}
    assert held(loaded({user: line["value"] for user, line in shuffled.items()})) == expected(shuffled)


def test_read_state_is_packed_in_the_present_version_and_reads_back_equal(version: int) -> None:
    users = fixture(version)
    state = loaded({user: line["value"] for user, line in users.items()})
    packed = dict(zip(state.ids, changelog.pack(state, np.arange(len(state))), strict=True))
    assert {value[0] for value in packed.values()} == {STATE_VERSION}
    assert held(loaded(packed)) == expected(users)


def test_layout_does_not_change_without_a_new_version() -> None:
    values = {user: line["value"] for user, line in fixture(STATE_VERSION).items()}
    state = loaded(values)
    assert dict(zip(state.ids, changelog.pack(state, np.arange(len(state))), strict=True)) == values


def test_user_read_from_an_earlier_release_goes_on_like_one_who_never_left_memory(version: int) -> None:
    users = {user: line for user, line in fixture(version).items() if user in HISTORIES}
    old = loaded({user: line["value"] for user, line in users.items()})
    never_packed = make_state.new_state()
    make_state.take_in(never_packed, HISTORIES)
    make_state.take_in(never_packed, {"scored-then-active": [(5, "view", 0)]}, offset=1_000_000)
    for state in (old, never_packed):
        # Some of these events are repeats, some fill a history, some are older than all of it.
        make_state.take_in(state, {user: events[-3:] for user, events in HISTORIES.items()})
        make_state.take_in(state, {user: [(3, "cart", 0), (9 * DAY_S, "view", 0)] for user in HISTORIES}, 2_000_000)
    rows = [state.snapshot(state.rows_of(list(users))) for state in (old, never_packed)]
    by_events = [n for n in USER.names or () if n in ("applied_offset", "n_events", "orders", "revenue", "last_time")]
    assert rows[0].users[by_events].tolist() == rows[1].users[by_events].tolist()
    as_of = rows[0].users["last_time"].astype(np.int64)
    without_reviews = np.array([user != "42" for user in users])
    assert np.array_equal(features(rows[0], as_of)[without_reviews], features(rows[1], as_of)[without_reviews])


# Newer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newer", [STATE_VERSION + 1, 128, 255])
def test_newer_state_is_refused_with_both_versions_and_what_to_do(newer: int) -> None:
    good = fixture(STATE_VERSION)["one-event"]["value"]
    state = PartitionState(lateness_s=0)
    with pytest.raises(ContractError) as caught:
        changelog.load(state, ["a", "b", "c"], [good, bytes([newer]) + b"whatever that will be", good])
    assert str(caught.value) == (
        f"state version is {newer}, this build reads 1 to {STATE_VERSION}; "
        "run the release that wrote it, or start with a new --app-id"
    )
    assert len(state) == 0


@pytest.mark.parametrize("record", [Score, Alert])
def test_record_of_a_newer_schema_is_refused_by_its_name(record: type) -> None:
    name = record.__struct_config__.tag
    newer = json.dumps({"schema": re.sub(r"v1$", "v2", name)}).encode()
    with pytest.raises(msgspec.ValidationError, match=r"v2.*\$\.schema"):
        msgspec.json.decode(newer, type=record)


@pytest.mark.parametrize(("name", "ours"), [("features_version", FEATURES_VERSION), ("tokens_version", TOKENS_VERSION)])
def test_model_of_a_newer_release_is_refused_with_both_versions_and_what_to_do(
    tmp_path: Path, name: str, ours: int
) -> None:
    manifest = json.loads((DEMO_MODEL / MANIFEST_FILE).read_bytes())
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**manifest, name: ours + 1, "labels": "another shape"}))
    with pytest.raises(ContractError, match=f"{name} is {ours + 1}, this build serves {ours}; train and export"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "metadata", ["v2:1700000000:5.000", "v1:1700000000:5.000:more", "v1:17000000000:5.000", "", "é"]
)
def test_commit_of_a_newer_release_or_another_tool_gives_only_an_offset(metadata: str) -> None:
    assert Position.read(7, metadata) == Position(7)


@given(st.text() | st.from_regex(r"v[12]:[0-9]*:[0-9.]*"))
def test_commit_metadata_of_any_text_can_be_read(metadata: str) -> None:
    found = Position.read(7, metadata)
    assert found.offset == 7
    assert found == Position(7) or Position.read(7, found.metadata()) == found


# Damaged ----------------------------------------------------------------------------------------------

VALUES = [line["value"] for v in USER_BYTES for line in fixture(v).values()]


def outcome(value: bytes) -> str:
    """What becomes of a value between two good ones: it is refused, or it is read and the state goes on with it."""
    state, good = PartitionState(lateness_s=0), VALUES[-1]
    try:
        changelog.load(state, ["before", "damaged", "after"], [good, value, good])
    except ContractError as error:
        assert re.search("; (delete --data-dir|run the release)", str(error))
        assert len(str(error)) < 300
        return "refused"
    neighbours = changelog.pack(state, np.array([0, 2]))
    assert neighbours == [good, good]
    changelog.load(PartitionState(lateness_s=0), ["again"], changelog.pack(state, np.array([1])))
    assert holds(state, 1)["columns"]
    return "read"


def cuts() -> Iterator[bytes]:
    """Short values cut at every byte, long ones at some bytes, and all with some bytes too many."""
    for value in VALUES:
        for end in range(0, len(value), 1 if len(value) < 200 else 97):
            yield value[:end]
        yield from (value + b"\0" * n for n in (1, 7, 9))


def test_value_that_was_cut_anywhere_or_has_bytes_too_many_is_refused() -> None:
    found = {(value, outcome(value)) for value in set(cuts())}
    # A review that awaits its sentiment takes the last eight bytes. Without them a value is still a good value.
    shorter = {value[:-8] for value in VALUES}
    assert {value for value, what in found if what == "read"} <= shorter


def _at(column: str) -> int:
    assert USER.fields is not None
    return 1 + int(USER.fields[column][1])


@pytest.mark.parametrize(
    ("column", "content"),
    [
        *itertools.product(["history_len", "seen_len"], [0, 1, 63, 65, 255]),
        *itertools.product(["history_next", "seen_next"], [1, 64, 255]),
        ("idle_stage", 6),
        ("idle_stage", 255),
    ],
)
def test_impossible_count_is_refused_before_it_is_used_as_an_index(column: str, content: int) -> None:
    for user in ("forty-days", "exactly-full"):
        value = bytearray(fixture(STATE_VERSION)[user]["value"])
        value[_at(column)] = content
        assert outcome(bytes(value)) == "refused"


def test_bucket_in_a_slot_out_of_range_is_refused() -> None:
    value = bytearray(fixture(STATE_VERSION)["one-past-full"]["value"])
    first = 1 + USER.itemsize + 64 * 17 + 64 * 8
    assert value[first] == 3
    value[first + 1] = BUCKET_SLOTS
    assert outcome(bytes(value)) == "refused"
    value[first] = 200
    assert outcome(bytes(value)) == "refused"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VALUES), st.integers(0), st.integers(0, 7))
@example(VALUES[0], 0, 7)
def test_value_with_one_bit_changed_is_refused_or_still_a_user(value: bytes, place: int, bit: int) -> None:
    flipped = bytearray(value)
    flipped[place % len(value)] ^= 1 << bit
    outcome(bytes(flipped))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=120).map(lambda b: bytes([STATE_VERSION]) + b))
def test_value_of_any_bytes_is_refused_or_still_a_user(value: bytes) -> None:
    outcome(value)
