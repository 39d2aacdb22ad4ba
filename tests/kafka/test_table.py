"""The local store without a broker: recovery, damage, errors of the file system, locks and merges."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from stream.checkpoint import journal as journals
from stream.checkpoint.changelog import pack
from stream.checkpoint.journal import Journal
from stream.checkpoint.journal_blocks import Users
from stream.errors import ValuestreamError
from stream.kafka.app import Source, build_app
from stream.kafka.table import UserStore
from stream.state.partition_state import PartitionState

CHANGELOG = TP("app-users-changelog", 0)


def source_at(folder: Path) -> Source:
    """Build an app that is never started."""
    return build_app(
        app_id="app",
        brokers="127.0.0.1:1",
        events_topic="events",
        partitions=1,
        data_dir=folder,
        fetch_records_max=1,
        session_timeout_s=8.0,
        lateness_s=60.0,
        currency="USD",
        instance_id="",
    )


def store_at(folder: Path, *, in_recovery: bool = False) -> UserStore:
    """Return the store of an app that is never started."""
    source = source_at(folder)
    source.app.finalize()
    source.recovery.in_recovery = in_recovery
    return source.store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UserStore]:
    store = store_at(tmp_path / "state")
    yield store
    store._close(0)


def write(store: UserStore, users: Mapping[bytes, bytes | None], offset: int) -> None:
    store.write(0, Users.without_rows(list(users), list(users.values())), offset)


def reopened(store: UserStore, folder: Path) -> UserStore:
    """Close the store and open it again, as the next process does."""
    store._close(0)
    return store_at(folder)


def packed(*users: str, applied_offset: int = 0) -> dict[bytes, bytes | None]:
    """Pack users with this applied offset."""
    state = PartitionState(lateness_s=60)
    rows = state.rows_of(list(users))
    state.users["applied_offset"][rows] = applied_offset
    return {user.encode(): value for user, value in zip(users, pack(state, rows), strict=True)}


def applied_offsets(state: PartitionState) -> dict[str, int]:
    return dict(zip(state.ids, state.users["applied_offset"][: len(state)].tolist(), strict=True))


def fetch(offset: int, *records: tuple[bytes, bytes | None]) -> SimpleNamespace:
    """Make one fetch of the changelog of partition 0, as recovery hands it on."""
    message = SimpleNamespace(tp=CHANGELOG, partition=0, offset=offset)
    return SimpleNamespace(message=message, value=[SimpleNamespace(key=key, value=value) for key, value in records])


def value_at(applied_offset: int) -> bytes:
    """Return the beginning of a packed user with this applied offset."""
    return b"\1" + applied_offset.to_bytes(8, "little") + b"rest"


def stored(store: UserStore, *fetches: SimpleNamespace) -> dict[bytes, bytes]:
    """Apply these fetches one by one, and return the users of partition 0."""
    for one in fetches:
        store.apply_changelog_batch([one], None, None)
    return dict(store.users(0))


# -- recovery and loading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reopens", [False, True], ids=["while it is open", "opened again"])
def test_value_that_has_seen_less_does_not_undo_a_newer_one(store: UserStore, tmp_path: Path, reopens: bool) -> None:
    store.apply_changelog_batch([fetch(0, (b"ann", value_at(5)), (b"bob", value_at(2)))], None, None)
    if reopens:
        store = reopened(store, tmp_path / "state")
    found = stored(store, fetch(1, (b"ann", value_at(3)), (b"bob", value_at(2) + b"!"), (b"cid", value_at(1))))
    assert found == {b"ann": value_at(5), b"bob": value_at(2) + b"!", b"cid": value_at(1)}
    store._close(0)


def test_last_value_of_a_user_in_one_fetch_counts_unless_it_has_seen_less(store: UserStore) -> None:
    ann, bob, cid = ([(name, value_at(at) if at else None) for at in offsets] for name, offsets in APPLIED.items())
    assert stored(store, fetch(8, *ann, *bob, *cid)) == {b"ann": value_at(4), b"cid": value_at(2)}


#: User → applied offsets of their values in one fetch; 0 stands for a tombstone.
APPLIED: dict[bytes, list[int]] = {b"ann": [1, 4, 3], b"bob": [5, 0], b"cid": [9, 0, 2]}


def test_key_of_a_user_is_written_once_while_recovery_reads(store: UserStore, tmp_path: Path) -> None:
    store._in_recovery = lambda: True  # type: ignore[method-assign]
    fetches = [fetch(at, (b"a key of some length", value_at(at)), (b"bob", value_at(at))) for at in range(3)]
    for one in fetches[:2]:
        store.apply_changelog_batch([one], None, None)
    files = list(store.partition_path(0).glob("*.segment"))
    assert [path.read_bytes().count(b"a key of some length") for path in files] == [1]
    store._in_recovery = lambda: False  # type: ignore[method-assign]
    store.apply_changelog_batch([fetches[2]], None, None)
    store._in_recovery = lambda: True  # type: ignore[method-assign]
    store.apply_changelog_batch([fetch(3, (b"cid", value_at(3)), (b"bob", value_at(3)))], None, None)
    again = reopened(store, tmp_path / "state")
    expected = {b"a key of some length": value_at(2), b"bob": value_at(3), b"cid": value_at(3)}
    assert dict(again.users(0)) == expected
    again._close(0)


def test_user_with_a_value_after_their_tombstone_is_stored(store: UserStore) -> None:
    found = stored(
        store,
        fetch(0, (b"ann", value_at(5)), (b"bob", value_at(2))),
        fetch(1, (b"ann", None), (b"bob", None)),
        fetch(2, (b"ann", value_at(9))),
    )
    assert found == {b"ann": value_at(9)}


def test_fetch_that_the_store_already_has_changes_nothing(store: UserStore) -> None:
    found = stored(store, fetch(4, (b"ann", value_at(5))), fetch(4, (b"bob", value_at(6))), fetch(3, (b"ann", None)))
    assert (found, store.persisted_offset(CHANGELOG)) == ({b"ann": value_at(5)}, 4)


def test_older_value_in_the_changelog_does_not_undo_a_checkpoint_of_ours(store: UserStore) -> None:
    assert stored(store, fetch(0, (b"ann", value_at(5)))) == {b"ann": value_at(5)}
    write(store, {b"ann": value_at(8)}, 1)
    assert stored(store, fetch(2, (b"ann", value_at(6)))) == {b"ann": value_at(8)}


def test_standby_keeps_what_it_has_read_through_a_crash(store: UserStore, tmp_path: Path) -> None:
    stored(store, fetch(0, (b"ann", value_at(5))), fetch(1, (b"bob", value_at(6))))
    again = reopened(store, tmp_path / "state")
    assert again.persisted_offset(CHANGELOG) == 1
    assert dict(again.users(0)) == {b"ann": value_at(5), b"bob": value_at(6)}
    again._close(0)


def test_users_with_any_key_are_read_and_nothing_else(store: UserStore) -> None:
    users = dict.fromkeys((b"\x00marker", b"A", b"__faust", b"__faust\x00offset_", b"__g", "küche".encode()), b"value")
    write(store, {**users}, 7)
    assert dict(store.users(0)) == users


async def test_load_returns_what_the_store_has_at_that_time(store: UserStore) -> None:
    write(store, packed("ann", "bob", applied_offset=5), 2)
    state = await store.load(0)
    assert (applied_offsets(state), state.lateness_s) == ({"ann": 5, "bob": 5}, 60)
    store.apply_changelog_batch([fetch(3, *packed("bob", applied_offset=9).items(), (b"ann", None))], None, None)
    write(store, packed("dan", applied_offset=7), 4)
    assert applied_offsets(await store.load(0)) == {"bob": 9, "dan": 7}


async def test_load_of_many_users_faults_their_memory_in_once(
    store: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.kafka.table._MANY_USERS", 100)
    monkeypatch.setattr(journals, "_PIECE_USERS", 70)
    asked: list[int] = []
    fault_in = PartitionState.fault_in
    monkeypatch.setattr(PartitionState, "fault_in", lambda *of: (fault_in(*of), asked.append(of[1])))
    users = [f"user-{i}" for i in range(3_000)]
    write(store, packed(*users, applied_offset=5), 1)
    state = await store.load(0)
    assert asked == [3_000]
    assert applied_offsets(state) == dict.fromkeys(users, 5)
    assert state.index.rows(state.ids).tolist() == list(range(3_000))


# -- damage and errors of the file system -----------------------------------------------------------------


def test_damaged_journal_is_cut_off_with_one_warning_and_can_be_written(
    store: UserStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(store, {b"ann": value_at(1)}, 1)
    write(store, {b"bob": value_at(2)}, 2)
    (file,) = store.partition_path(0).glob("*.segment")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    again = reopened(store, tmp_path / "state")
    with caplog.at_level(logging.WARNING):
        assert again.persisted_offset(CHANGELOG) == 1
        assert stored(again, fetch(2, (b"bob", value_at(2)))) == {b"ann": value_at(1), b"bob": value_at(2)}
    assert [str(again.partition_path(0)) in record.getMessage() for record in caplog.records] == [True]
    again._close(0)


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "make room on the disk, then start the worker again"),
        (errno.EMFILE, "raise the limit on open files, then start"),
        (errno.ENXIO, "look at its disk, then start"),
    ],
)
@pytest.mark.parametrize("use", ["append", "read", "opening"])
def test_error_of_the_file_system_is_one_line_with_the_next_step(
    store: UserStore, monkeypatch: pytest.MonkeyPatch, number: int, step: str, use: str
) -> None:
    def refuse(*_: object) -> Any:
        raise OSError(number, "told by the system")

    monkeypatch.setattr(Journal, use, refuse)
    uses: dict[str, Callable[[], object]] = {
        "append": lambda: write(store, {}, 1),
        "read": lambda: list(store.users(0)),
        "opening": lambda: store.persisted_offset(CHANGELOG),
    }
    with pytest.raises(ValuestreamError, match=f"told by the system; expected .*; {step}") as raised:
        uses[use]()
    assert "\n" not in str(raised.value)


def test_journal_that_could_not_be_opened_is_unlocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched, pytest.raises(ValuestreamError, match="replace the disk"):
        patched.setattr(Journal, "opening", refuse)
        store_at(tmp_path).persisted_offset(CHANGELOG)
    store = store_at(tmp_path)
    assert store.persisted_offset(CHANGELOG) is None
    store._close(0)


def test_error_that_crashes_faust_is_raised_in_the_worker(tmp_path: Path) -> None:
    async def wait_for_it() -> None:
        source = source_at(tmp_path)
        cast("Any", source.app)._crash(ValuestreamError("no room"))
        await source.crashed()

    with pytest.raises(ValuestreamError, match="no room"):
        asyncio.run(wait_for_it())


# -- several processes in one folder ----------------------------------------------------------------------


async def test_store_waits_for_a_journal_that_another_process_has(
    store: UserStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.kafka.table._LOCK_RETRY_S", 0.01)
    other = store_at(tmp_path / "state")
    write(other, {b"ann": value_at(1)}, 1)
    assert not await store.need_active_standby_for(CHANGELOG)
    generation = cast("Any", store.app).consumer_generation_id
    opening = asyncio.create_task(store._open(0, generation))
    await asyncio.sleep(0.05)
    assert not opening.done()
    other._close(0)
    await opening
    assert store.persisted_offset(CHANGELOG) == 1
    assert await store.need_active_standby_for(CHANGELOG)


async def test_store_stops_waiting_for_a_journal_after_a_rebalance(
    store: UserStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.kafka.table._LOCK_RETRY_S", 0.01)
    other = store_at(tmp_path / "state")
    write(other, {}, 1)
    await store._open(0, cast("Any", store.app).consumer_generation_id - 1)
    assert not store._journals
    with pytest.raises(BlockingIOError):
        monkeypatch.setattr("stream.kafka.table._LOCK_TRIES", 2)
        await store._open(0, cast("Any", store.app).consumer_generation_id)
    other._close(0)


@pytest.mark.parametrize("how", ["revoked", "stopped", "reset"])
async def test_journal_is_unlocked_when_its_partition_goes(store: UserStore, tmp_path: Path, how: str) -> None:
    write(store, {b"ann": value_at(1)}, 1)
    if how == "revoked":
        cast("Any", store.app).assignor.assigned_standbys = set
        await store.on_rebalance(set(), {CHANGELOG}, set())
    elif how == "stopped":
        await store.stop()
    else:
        store.reset_state()
    other = store_at(tmp_path / "state")
    assert other.persisted_offset(CHANGELOG) == (None if how == "reset" else 1)
    other._close(0)


async def test_rebalance_opens_the_journals_of_our_partitions_but_not_of_standbys(store: UserStore) -> None:
    standby = TP(CHANGELOG.topic, 1)
    cast("Any", store.app).assignor.assigned_standbys = lambda: {standby}
    await store.on_rebalance(set(), set(), {CHANGELOG, standby, TP("events", 2)})
    assert list(store._journals) == [0]


# -- merging ----------------------------------------------------------------------------------------------


@pytest.fixture
def long(store: UserStore, monkeypatch: pytest.MonkeyPatch) -> UserStore:
    """A store with a journal that the next write makes long enough to merge."""
    monkeypatch.setattr(journals, "_BYTES_MIN", 10_000)
    monkeypatch.setattr(journals, "_PIECE_USERS", 7)
    store._in_recovery = lambda: True  # type: ignore[method-assign]
    rng = random.Random(1)
    for offset in range(100):
        users = packed(*(f"user-{rng.randrange(60)}" for _ in range(5)), applied_offset=offset)
        write(store, users, offset)
    assert not store._merging
    store._in_recovery = lambda: False  # type: ignore[method-assign]
    return store


def bytes_of(store: UserStore) -> int:
    return sum(path.stat().st_size for path in store.partition_path(0).glob("*.segment"))


async def merged(store: UserStore) -> None:
    async with asyncio.timeout(10):
        while store._merging:
            await asyncio.sleep(0)


async def test_long_journal_is_merged_while_writes_go_on(long: UserStore, tmp_path: Path) -> None:
    expected = dict(long.users(0))
    before = bytes_of(long)
    write(long, packed("ann", applied_offset=200), 200)
    assert long._merging
    for offset in range(201, 211):
        await asyncio.sleep(0)
        write(long, packed("bob", applied_offset=offset), offset)
    assert long._merging
    await merged(long)
    assert bytes_of(long) < before
    expected |= cast("dict[bytes, bytes]", packed("ann", applied_offset=200) | packed("bob", applied_offset=offset))
    again = reopened(long, tmp_path / "state")
    assert dict(again.users(0)) == expected
    assert again.persisted_offset(CHANGELOG) == offset
    again._close(0)


async def test_load_during_a_merge_has_all_users(long: UserStore) -> None:
    write(long, packed("ann", applied_offset=200), 200)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    state = await long.load(0)
    assert set(state.ids) == {key.decode() for key, _ in long.users(0)}
    assert not long._merging
    write(long, packed("ann", applied_offset=201), 201)
    await merged(long)
    assert applied_offsets(await long.load(0)) == {**applied_offsets(state), "ann": 201}


async def test_next_write_raises_the_error_of_a_failed_merge_and_no_user_is_lost(
    long: UserStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(long, packed("ann", applied_offset=200), 200)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        await merged(long)
    for _ in range(2):
        with pytest.raises(ValuestreamError, match="make room on the disk"):
            write(long, packed("ann", applied_offset=201), 201)
    again = reopened(long, tmp_path / "state")
    assert again.persisted_offset(CHANGELOG) == 200
    assert packed("ann", applied_offset=200).items() <= dict(again.users(0)).items()
    again._close(0)


async def test_merge_ends_when_its_partition_is_revoked(long: UserStore, tmp_path: Path) -> None:
    write(long, packed("ann", applied_offset=200), 200)
    await asyncio.sleep(0)
    again = reopened(long, tmp_path / "state")
    assert not list(again.partition_path(0).glob("merging"))
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert again.persisted_offset(CHANGELOG) == 200
    again._close(0)
