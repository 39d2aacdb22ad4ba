"""The local store on its own: damage, refusals, and what it says about them."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from stream.changelog import pack
from stream.database import require_room
from stream.errors import ConfigError, ValuestreamError
from stream.source import Source, build_app
from stream.state import PartitionState
from stream.store import UserStore

USERS = {f"user-{i}".encode(): random.Random(i).randbytes(300) for i in range(1_000)}


def source_at(folder: Path) -> Source:
    """An app that never runs."""
    return build_app(
        app_id="app",
        brokers="127.0.0.1:1",
        events_topic="events",
        partitions=1,
        data_dir=folder,
        fetch_records_max=1,
        session_timeout_s=8.0,
        lateness_s=60.0,
        instance_id="",
    )


def store_at(folder: Path, *, in_recovery: bool = True) -> UserStore:
    """The store of such an app."""
    source = source_at(folder)
    source.app.finalize()
    source.recovery.in_recovery = in_recovery
    return source.store


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with users on disk: some in tables, the last in the log of writes."""
    folder = tmp_path_factory.mktemp("written")
    store = store_at(folder / "open")
    assert not list(store.users(0))  # As a worker loads them before its first checkpoint.
    for i, (key, value) in enumerate(USERS.items()):
        store.write(0, [(key, value)], i)
        if i % 300 == 299:
            store._db_for_partition(0).flush()
    # As a crash leaves it: closing would write the log into a table.
    return Path(shutil.copytree(folder / "open", folder / "crashed"))


@pytest.fixture
def database(written: Path, tmp_path: Path) -> Path:
    """The database of partition 0 in a copy of that directory."""
    shutil.copytree(written, tmp_path / "state")
    return next(tmp_path.glob("state/**/users-0.db"))


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(8):
        data[rng.randrange(len(data))] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [flip, cut, remove])
@pytest.mark.parametrize("name", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_damaged_database_is_made_anew_with_one_warning(
    database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, harm: Callable[..., None]
) -> None:
    for path in database.glob(name):
        harm(path, random.Random(1))
    store = store_at(tmp_path / "state")
    with caplog.at_level(logging.WARNING):
        assert dict(store.users(0)) == {}
    assert [str(database) in record.getMessage() for record in caplog.records] == [True]
    store.write(0, [(b"user-0", b"new")], 7)
    assert dict(store.users(0)) == {b"user-0": b"new"}


@pytest.mark.parametrize("harm", [flip, cut, remove])
def test_damaged_log_of_writes_leaves_users_and_offset_of_one_earlier_moment(
    database: Path, tmp_path: Path, harm: Callable[..., None]
) -> None:
    log = max(database.glob("*.log"), key=lambda path: path.stat().st_size)
    harm(log, random.Random(1))
    store = store_at(tmp_path / "state")
    users = dict(store.users(0))
    assert 0 < len(users) < len(USERS)
    assert users == dict(list(USERS.items())[: len(users)])
    assert store.persisted_offset(TP("changelog", 0)) == len(users) - 1


def test_damage_while_the_database_is_open_is_an_error_and_not_the_end_of_the_users(
    tmp_path: Path,
) -> None:
    store = store_at(tmp_path)
    store.write(0, USERS.items(), 1)
    store._db_for_partition(0).flush()
    assert dict(store.users(0)) == USERS
    (table,) = tmp_path.glob("**/*.sst")
    flip(table, random.Random(1))
    with pytest.raises(ValuestreamError, match="Corruption"):
        list(store.users(0))


def test_whole_database_is_kept_without_a_word(
    database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert dict(store_at(tmp_path / "state").users(0)) == USERS
    assert not caplog.records
    assert database.is_dir()


class Refusing:
    """A database that answers everything with this error."""

    def __init__(self, error: str) -> None:
        self._error = error

    def items(self, *_: object, **__: object) -> None:
        raise Exception(self._error)

    write = get = items


@pytest.mark.parametrize(
    ("error", "step"),
    [
        ("Corruption: block checksum mismatch", "start the worker again"),
        ("IO error: No space left on device: While appending", "make room on the disk, then start the worker again"),
        ("IO error: Too many open files: While open a file", "raise the limit on open files, then start"),
    ],
)
def test_error_while_it_is_open_is_one_line_with_the_next_step(tmp_path: Path, error: str, step: str) -> None:
    store = store_at(tmp_path)
    store._dbs[0] = Refusing(error)
    uses: list[Callable[[], object]] = [
        lambda: list(store.users(0)),
        lambda: store.write(0, [], 1),
        lambda: store.persisted_offset(TP("changelog", 0)),
    ]
    for use in uses:
        with pytest.raises(ValuestreamError, match=f"{error}; expected .*; {step}") as raised:
            use()
        assert "\n" not in str(raised.value)


def test_error_that_is_neither_damage_nor_a_refusal_is_left_to_faust(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store._dbs[0] = Refusing("IO error: While lock file: /x/LOCK: Resource temporarily unavailable")
    with pytest.raises(Exception, match=r"^IO error: While lock file"):
        list(store.users(0))


def test_error_that_stops_faust_is_raised_to_the_worker(tmp_path: Path) -> None:
    async def wait_for_it() -> None:
        source = source_at(tmp_path)
        cast("Any", source.app)._crash(ValuestreamError("no room"))
        await source.crashed()

    with pytest.raises(ValuestreamError, match="no room"):
        asyncio.run(wait_for_it())


def test_memory_table_is_emptied_before_rocksdb_does_it_by_itself(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    value = bytes(1024 * 1024)
    for i in range(40):
        store.write(0, [(str(i).encode(), value)], i)
        store._flushed(0)
        assert len(list(store.partition_path(0).glob("*.log"))) == 1
    assert list(store.partition_path(0).glob("*.sst"))


def test_memory_table_that_fills_slowly_is_emptied_while_it_is_small(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    value = bytes(64 * 1024)
    for i in range(60):
        store.write(0, [(str(i).encode(), value)], i)
    store._flushed(0)
    assert not list(store.partition_path(0).glob("*.sst"))
    for i in range(60, 70):
        store.write(0, [(str(i).encode(), value)], i)
    store._flushed(0)
    assert list(store.partition_path(0).glob("*.sst"))


class Slow:
    """A database whose memory table takes its time to be emptied, and notes what is done with it."""

    def __init__(self, done: list[str], error: Exception | None = None) -> None:
        self._done, self._error = done, error

    def write(self, _: object) -> None:
        self._done.append("written")

    def flush(self) -> None:
        time.sleep(0.05)
        self._done.append("emptied")
        if self._error:
            raise self._error


def test_nothing_is_written_while_a_memory_table_is_being_emptied(tmp_path: Path) -> None:
    store, done = store_at(tmp_path), list[str]()
    store._dbs[0] = Slow(done)
    store.write(0, [(b"ann", bytes(32 * 1024 * 1024))], 1)
    assert done == ["written"]
    store.write(0, [(b"bob", b"")], 2)
    assert done == ["written", "emptied", "written"]


def test_database_is_closed_when_its_memory_table_was_emptied(tmp_path: Path) -> None:
    store, done = store_at(tmp_path), list[str]()
    store._dbs[0] = Slow(done)
    store.write(0, [(b"ann", bytes(32 * 1024 * 1024))], 1)
    store.revoke_partitions(store.table, {TP("app-users-changelog", 0)})
    assert done == ["written", "emptied"]


def test_refusal_while_a_memory_table_is_emptied_is_said_at_the_next_write(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store._dbs[0] = Slow([], Exception("IO error: No space left on device: While appending"))
    store.write(0, [(b"ann", bytes(32 * 1024 * 1024))], 1)
    with pytest.raises(ValuestreamError, match="make room on the disk, then start the worker again"):
        store.write(0, [], 2)


def test_all_users_are_read_whatever_their_keys_and_nothing_else(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    users = dict.fromkeys((b"\x00marker", b"A", b"__faust", b"__faust\x00offset_", b"__g", "küche".encode()), b"value")
    store.write(0, users.items(), 7)
    assert dict(store.users(0)) == users


@pytest.mark.parametrize("make", [lambda p: p.write_text("a file"), lambda p: p.symlink_to("/proc/no")])
def test_state_directory_that_cannot_be_written_is_one_line(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "state")
    with pytest.raises(ConfigError, match=r"cannot be written: .*; expected .*--data-dir"):
        require_room(tmp_path / "state" / "deeper")


def fetch(offset: int, *records: tuple[bytes, bytes | None]) -> SimpleNamespace:
    """One fetch of the changelog of partition 0, as recovery hands it on."""
    message = SimpleNamespace(tp=TP("shop-users-changelog", 0), partition=0, offset=offset)
    return SimpleNamespace(message=message, value=[SimpleNamespace(key=key, value=value) for key, value in records])


def value_at(applied_offset: int) -> bytes:
    """The beginning of a packed user who has seen the source so far."""
    return b"\1" + applied_offset.to_bytes(8, "little") + b"rest"


def stored(store: UserStore, *fetches: SimpleNamespace) -> dict[bytes, bytes]:
    """The users of partition 0 after these fetches, each applied by itself."""
    for one in fetches:
        store.apply_changelog_batch([one], None, None)
    return dict(store.users(0))


@pytest.mark.parametrize("reopened", [False, True], ids=["filled from empty", "opened with users"])
def test_value_that_has_seen_less_does_not_undo_a_newer_one(tmp_path: Path, reopened: bool) -> None:
    store = store_at(tmp_path)
    store.apply_changelog_batch([fetch(0, (b"ann", value_at(5)), (b"bob", value_at(2)))], None, None)
    if reopened:
        list(store.users(0))
    found = stored(store, fetch(1, (b"ann", value_at(3)), (b"bob", value_at(2) + b"!"), (b"cid", value_at(1))))
    assert found == {b"ann": value_at(5), b"bob": value_at(2) + b"!", b"cid": value_at(1)}


def test_erased_user_who_came_back_in_the_changelog_is_there(tmp_path: Path) -> None:
    found = stored(
        store_at(tmp_path),
        fetch(0, (b"ann", value_at(5)), (b"bob", value_at(2))),
        fetch(1, (b"ann", None), (b"bob", None)),
        fetch(2, (b"ann", value_at(9))),
    )
    assert found == {b"ann": value_at(9)}


def test_checkpoints_after_a_load_count_when_the_partition_comes_back(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert stored(store, fetch(0, (b"ann", value_at(5)))) == {b"ann": value_at(5)}
    store.write(0, [(b"ann", value_at(8))], 1)
    assert stored(store, fetch(2, (b"ann", value_at(6)))) == {b"ann": value_at(8)}


def test_what_recovery_brings_is_written_once_it_is_much_and_the_newest_of_both_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.store._RESTORED_BYTES", 1)
    store = store_at(tmp_path)
    store.apply_changelog_batch([fetch(0, (b"ann", value_at(5)), (b"bob", value_at(5)))], None, None)
    assert not store._restored
    monkeypatch.undo()
    found = stored(store, fetch(1, (b"ann", value_at(4)), (b"bob", value_at(6)), (b"cid", value_at(1))))
    assert found == {b"ann": value_at(5), b"bob": value_at(6), b"cid": value_at(1)}


@pytest.mark.parametrize(
    ("n_records", "in_recovery", "waits"), [(3, True, True), (3, False, False), (500, False, True)]
)
def test_standby_that_has_read_all_has_it_on_disk(
    tmp_path: Path, n_records: int, in_recovery: bool, waits: bool
) -> None:
    store = store_at(tmp_path, in_recovery=in_recovery)
    records = [(str(i).encode(), value_at(5)) for i in range(n_records)]
    store.apply_changelog_batch([fetch(0, *records)], None, None)
    assert bool(store._restored) == waits
    assert store.persisted_offset(TP("shop-users-changelog", 0)) == 0


def test_of_empty_databases_the_one_that_recovery_brought_most_is_written_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.store._RESTORED_BYTES", 2_000)
    store = store_at(tmp_path)
    for partition, n_bytes in ((0, 900), (1, 600), (2, 700)):
        store._restore(TP("changelog", partition), 7, [SimpleNamespace(key=b"ann", value=value_at(5) + bytes(n_bytes))])
    assert sorted(store._restored) == [1, 2]


def test_what_recovery_brings_to_a_database_with_users_waits_for_less(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.write(0, [(b"ann", value_at(5))], 0)
    for offset in range(1, 17):
        assert 0 in store._restored or offset == 1
        store.apply_changelog_batch([fetch(offset, (str(offset).encode(), bytes(1024 * 1024)))], None, None)
    assert not store._restored


def test_crash_while_the_store_is_filled_loses_users_only_together_with_their_offset(tmp_path: Path) -> None:
    store = store_at(tmp_path / "open")
    store.apply_changelog_batch([fetch(0, (b"ann", value_at(5)))], None, None)
    store._write_restored(0)
    store._db_for_partition(0).flush()
    store.apply_changelog_batch([fetch(1, (b"bob", value_at(6)))], None, None)
    assert store.persisted_offset(TP("shop-users-changelog", 0)) == 1
    crashed = store_at(Path(shutil.copytree(tmp_path / "open", tmp_path / "crashed")))
    users, offset = dict(crashed.users(0)), crashed.persisted_offset(TP("shop-users-changelog", 0))
    assert (users, offset) in [({b"ann": value_at(5)}, 0), ({b"ann": value_at(5), b"bob": value_at(6)}, 1)]


def test_store_that_was_filled_has_all_users_after_a_crash_and_those_written_since(tmp_path: Path) -> None:
    store = store_at(tmp_path / "open")
    assert stored(store, fetch(0, (b"ann", value_at(5)))) == {b"ann": value_at(5)}
    store.write(0, [(b"bob", value_at(6))], 1)
    crashed = store_at(Path(shutil.copytree(tmp_path / "open", tmp_path / "crashed")))
    assert dict(crashed.users(0)) == {b"ann": value_at(5), b"bob": value_at(6)}
    assert crashed.persisted_offset(TP("shop-users-changelog", 0)) == 1


# -- databases that are ours, which are read into memory as they are opened -----------------------------------


def packed(*users: str, applied_offset: int = 0) -> list[tuple[bytes, bytes | None]]:
    """Users who have seen the source so far, as items of a store."""
    state = PartitionState(lateness_s=60)
    rows = state.rows_of(list(users))
    state.users["applied_offset"][rows] = applied_offset
    return [(user.encode(), value) for user, value in zip(users, pack(state, rows), strict=True)]


def applied_offsets(state: PartitionState) -> dict[str, int]:
    return dict(zip(state.ids, state.users["applied_offset"][: len(state)].tolist(), strict=True))


@pytest.fixture
def three(tmp_path: Path) -> UserStore:
    """A store of three users that was written by another process."""
    store = store_at(tmp_path / "written")
    store.write(0, packed("ann", "bob", "cid", applied_offset=5), 2)
    store._db_for_partition(0).flush()
    return store_at(Path(shutil.copytree(tmp_path / "written", tmp_path / "copied")))


async def test_users_are_read_once_where_nothing_changes_between_opening_and_loading(
    three: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await three._try_open_db_for_partition(0)
    assert three.persisted_offset(TP("changelog", 0)) == 2
    monkeypatch.setattr("stream.store.chunks", lambda *_: iter([[(b"read", b"again")]]))
    state = await three.load(0)
    assert applied_offsets(state) == {"ann": 5, "bob": 5, "cid": 5}
    assert state.lateness_s == 60


@pytest.mark.parametrize("gone", [False, True])
async def test_what_recovery_brings_after_opening_is_loaded(three: UserStore, gone: bool) -> None:
    await three._try_open_db_for_partition(0)
    (_, newer), (_, older) = packed("bob", applied_offset=9) + packed("ann", applied_offset=4)
    erased = [(b"cid", None)] if gone else []
    three.apply_changelog_batch([fetch(3, (b"bob", newer), (b"ann", older), *erased)], None, None)
    expected = {"ann": 5, "bob": 9, "cid": 5}
    if gone:
        del expected["cid"]
    assert applied_offsets(await three.load(0)) == expected
    assert applied_offsets(await three.load(0)) == expected


async def test_what_recovery_brings_to_an_empty_database_is_loaded_and_then_in_it(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    await store._try_open_db_for_partition(0)
    assert store.persisted_offset(TP("changelog", 0)) is None
    users = packed("ann", "bob", applied_offset=5)
    store.apply_changelog_batch([fetch(3, *users, (b"cid", None))], None, None)
    assert applied_offsets(await store.load(0)) == {"ann": 5, "bob": 5}
    assert dict(store.users(0)) == dict(users)
    assert store.persisted_offset(TP("changelog", 0)) == 3


# -- an empty database, which is filled after its users were loaded --------------------------------------------

BEFORE = packed("ann", "bob", "cid", applied_offset=5)
AFTER: list[tuple[bytes, bytes | None]] = [*packed("bob", "dan", applied_offset=9), (b"cid", None)]


@pytest.fixture
async def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserStore:
    """A store that has loaded what recovery brought, and has begun to fill its database with it."""
    monkeypatch.setattr("stream.filling._STEP", 1)
    store = store_at(tmp_path / "open")
    await store._try_open_db_for_partition(0)
    store.apply_changelog_batch([fetch(3, *BEFORE)], None, None)
    assert applied_offsets(await store.load(0)) == {"ann": 5, "bob": 5, "cid": 5}
    next(store._filling[0].steps)
    return store


def is_empty(store: UserStore) -> bool:
    return not list(store._dbs[0].keys())


async def test_database_is_filled_in_steps_and_then_has_what_was_written_meanwhile(loaded: UserStore) -> None:
    loaded.write(0, AFTER, 4)
    assert is_empty(loaded)
    loaded.fill()
    while not loaded._filling[0].done:
        assert is_empty(loaded)
        await asyncio.sleep(0)
    assert dict(loaded.users(0)) == {BEFORE[0][0]: BEFORE[0][1], **dict(AFTER[:2])}
    assert loaded._written_offset(0) == 4
    assert not list(loaded.partition_path(0).parent.glob("*.filling"))


@pytest.mark.parametrize("how", ["load", "users", "revoke", "stop"])
async def test_who_needs_the_database_fills_it_to_the_end(loaded: UserStore, tmp_path: Path, how: str) -> None:
    loaded.fill()
    loaded.write(0, AFTER, 4)
    if how == "load":
        assert applied_offsets(await loaded.load(0)) == {"ann": 5, "bob": 9, "dan": 9}
    elif how == "users":
        assert [key for key, _ in loaded.users(0)] == [b"ann", b"bob", b"dan"]
    elif how == "revoke":
        loaded.revoke_partitions(loaded.table, {TP("app-users-changelog", 0)})
    else:
        await loaded.stop()
    await asyncio.sleep(0)
    loaded._dbs.clear()
    again = store_at(tmp_path / "open")
    assert [key for key, _ in again.users(0)] == [b"ann", b"bob", b"dan"]
    assert again.persisted_offset(TP("app-users-changelog", 0)) == 4


async def test_changelog_that_comes_while_a_database_is_filled_is_on_top_of_it(loaded: UserStore) -> None:
    loaded.write(0, AFTER, 4)
    (_, older), (_, newer) = packed("bob", applied_offset=8) + packed("dan", applied_offset=12)
    loaded.apply_changelog_batch([fetch(5, (b"bob", older), (b"dan", newer))], None, None)
    assert applied_offsets(await loaded.load(0)) == {"ann": 5, "bob": 9, "dan": 12}
    assert loaded.persisted_offset(TP("app-users-changelog", 0)) == 5


async def test_crash_while_a_database_is_filled_leaves_it_empty_and_nothing_beside_it(
    loaded: UserStore, tmp_path: Path
) -> None:
    loaded.write(0, AFTER, 4)
    assert loaded.persisted_offset(TP("app-users-changelog", 0)) == 4
    crashed = store_at(Path(shutil.copytree(tmp_path / "open", tmp_path / "crashed")))
    left = list((tmp_path / "crashed").rglob("*.filling"))
    assert left
    assert crashed.persisted_offset(TP("app-users-changelog", 0)) is None
    assert not list(crashed.users(0))
    assert not left[0].exists()


async def test_database_that_cannot_be_filled_is_an_error_for_whoever_writes_next(loaded: UserStore) -> None:
    def refuse(*_: object) -> None:
        raise OSError("IO error: No space left on device")

    loaded._filling[0]._database = SimpleNamespace(ingest_external_file=refuse)
    loaded.fill()
    await asyncio.sleep(0.05)
    for _ in range(2):
        with pytest.raises(ValuestreamError, match="make room on the disk"):
            loaded.write(0, AFTER, 4)
    assert loaded._written_offset(0) is None


async def test_error_in_writing_what_was_held_is_one_of_the_next_write_and_no_mark_is_past_it(
    loaded: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("IO error: No space left on device")

    loaded.write(0, AFTER, 4)
    monkeypatch.setattr(loaded, "_database", lambda _: SimpleNamespace(write=refuse))
    loaded.fill()
    while not loaded._filling[0].done:
        await asyncio.sleep(0)
    with pytest.raises(ValuestreamError, match="make room on the disk"):
        loaded.write(0, packed("eve", applied_offset=10), 5)
    monkeypatch.undo()
    assert loaded._written_offset(0) == 3


async def test_each_load_is_of_what_the_store_has_then(three: UserStore) -> None:
    await three._try_open_db_for_partition(0)
    await three.load(0)
    three.write(0, packed("dan", applied_offset=7), 3)
    assert applied_offsets(await three.load(0)) == {"ann": 5, "bob": 5, "cid": 5, "dan": 7}


async def test_users_of_a_partition_that_was_revoked_are_read_anew(three: UserStore) -> None:
    await three._try_open_db_for_partition(0)
    three.revoke_partitions(three.table, {TP("app-users-changelog", 0)})
    assert not three._in_memory


@pytest.mark.parametrize("how", ["revoked", "stopped"])
async def test_what_recovery_brought_is_written_when_its_partition_is_revoked_or_the_store_stopped(
    tmp_path: Path, how: str
) -> None:
    store = store_at(tmp_path)
    await store._try_open_db_for_partition(0)
    store.apply_changelog_batch([fetch(3, *packed("ann", applied_offset=5))], None, None)
    if how == "revoked":
        store.revoke_partitions(store.table, {TP("app-users-changelog", 0)})
    else:
        await store.stop()
    again = store_at(tmp_path)
    assert dict(again.users(0)) == dict(packed("ann", applied_offset=5))
    assert again.persisted_offset(TP("app-users-changelog", 0)) == 3


async def test_store_that_is_asked_while_it_is_read_is_read_by_who_asks(
    three: UserStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.store._CHUNK", 1)
    opening = asyncio.create_task(three._try_open_db_for_partition(0))
    while not three._unread:
        await asyncio.sleep(0)
    three.write(0, packed("bob", applied_offset=9), 3)
    await opening
    assert applied_offsets(await three.load(0)) == {"ann": 5, "bob": 9, "cid": 5}


async def test_damaged_database_of_ours_is_made_anew_with_one_warning(
    database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in database.glob("*.sst"):
        flip(path, random.Random(1))
    store = store_at(tmp_path / "state")
    with caplog.at_level(logging.WARNING):
        await store._try_open_db_for_partition(0)
    assert [str(database) in record.getMessage() for record in caplog.records] == [True]
    assert store.persisted_offset(TP("changelog", 0)) is None
    assert len(await store.load(0)) == 0
