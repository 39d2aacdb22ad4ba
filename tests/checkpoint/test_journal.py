"""Journal: random writes, merges, crashes and damage are compared with a plain dictionary."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.checkpoint import journal as journals
from stream.checkpoint.journal import Journal
from stream.checkpoint.journal_blocks import Users

Moment = tuple[int | None, dict[bytes, bytes]]
NAMES = [f"user-{i}".encode() for i in range(40)]


def opened(path: Path) -> Journal:
    journal = Journal(path)
    for _ in journal.opening():
        pass
    return journal


def moment(journal: Journal) -> Moment:
    """Return what the journal has: the changelog offset and all users."""
    found = [(k, v) for piece in journal.read() for k, v in zip(piece.keys, piece.values.strings(), strict=True)]
    assert len(dict(found)) == len(found), "a user was read twice"
    return journal.offset, dict(found)


def moment_at(path: Path) -> Moment:
    """Return what a process finds when it opens the journal."""
    journal = opened(path)
    try:
        return moment(journal)
    finally:
        journal.close()


def merge(journal: Journal) -> None:
    for _ in journal.merging():
        pass


def value_at(applied_offset: int, rest: bytes = b"rest") -> bytes:
    """Return the beginning of a packed user with this applied offset."""
    return b"\1" + applied_offset.to_bytes(8, "little") + rest


class Writer:
    """Writes the same random users to a journal and to a dictionary, and keeps every state that there was."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.rng = path, random.Random(seed)
        self.journal = opened(path)
        self.users: dict[bytes, bytes] = {}
        self.moments: list[Moment] = [(None, {})]
        self._rows: list[bytes] = []

    def write(self) -> None:
        """Write a checkpoint, where users have rows, or a fetch of the changelog, where they have none."""
        names = self.rng.sample(NAMES, self.rng.randrange(12))
        changed = {name: self._value() for name in names}
        for name, value in changed.items():
            before = self.users.get(name)
            if value is None:
                self.users.pop(name, None)
            elif before is None or value[1:9][::-1] >= before[1:9][::-1]:
                self.users[name] = value
        rows = [self._row(name) if self.rng.random() < 0.9 else -1 for name in changed]
        if self.rng.random() < 0.3:
            rows = [-1] * len(rows)
        offset = len(self.moments)
        self.journal.append(Users(list(changed), list(changed.values()), np.array(rows, np.int64)), offset)
        self.moments.append((offset, dict(self.users)))

    def _value(self) -> bytes | None:
        if self.rng.random() < 0.1:
            return None
        # The value of a worker that was replaced may have seen fewer events.
        return value_at(max(0, len(self.moments) - self.rng.choice((0, 0, 0, 5))), self.rng.randbytes(20))

    def _row(self, name: bytes) -> int:
        if name not in self._rows:
            self._rows.append(name)
        return self._rows.index(name)

    def load(self) -> None:
        """Load the journal into another state, where the users have other rows."""
        assert moment(self.journal) == self.moments[-1]
        self.rng.shuffle(self._rows)

    def reopen(self) -> None:
        """End the process and begin another."""
        self.journal.close()
        self.journal = opened(self.path)
        self.load()

    def merge(self) -> None:
        """Merge to the end or up to some step, and write in between."""
        steps = self.journal.merging()
        for _ in range(self.rng.choice((0, 1, 3, 1_000))):
            if next(steps, steps) is steps:
                break
            if self.rng.random() < 0.3:
                self.write()
        steps.close()

    def act(self) -> None:
        """Do something, mostly a write."""
        actions = [self.write] * 12 + [self.load, self.reopen, self.merge, self.merge]
        self.rng.choice(actions)()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_PIECE_USERS", 7)
    monkeypatch.setattr(journals, "_PIECE_BYTES", 300)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), actions=st.integers(1, 60))
def test_journal_has_what_was_written_after_any_actions(
    tmp_path_factory: pytest.TempPathFactory, seed: int, actions: int
) -> None:
    writer = Writer(tmp_path_factory.mktemp("journal") / "users-0", seed)
    for _ in range(actions):
        writer.act()
        assert writer.journal.offset == writer.moments[-1][0]
    writer.reopen()
    assert moment(writer.journal) == writer.moments[-1]


def cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 + rng.randrange(255)
    path.write_bytes(data)


def blank(path: Path, rng: random.Random) -> None:
    """Harm a file as a crash does that wrote the size of the file to the disk, but not its last pages."""
    size = path.stat().st_size
    cut(path, rng)
    os.truncate(path, size)


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [cut, flip, blank, remove])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damaged_journal_has_what_it_had_at_one_moment_before(
    tmp_path_factory: pytest.TempPathFactory, harm: Callable[..., None], seed: int
) -> None:
    writer = Writer(tmp_path_factory.mktemp("journal") / "users-0", seed)
    for _ in range(writer.rng.randrange(5, 40)):
        writer.act()
    writer.journal.close()
    files = sorted(writer.path.glob("*.segment"))
    if not files:
        return
    harm(writer.rng.choice(files), writer.rng)
    found = moment_at(writer.path)
    assert found in writer.moments
    # The journal is whole again and can be written.
    journal = opened(writer.path)
    journal.append(Users.without_rows([b"new"], [value_at(10**6)]), 10**6)
    journal.close()
    assert moment_at(writer.path) == (10**6, {**found[1], b"new": value_at(10**6)})


@pytest.mark.parametrize(("harm", "warnings"), [(cut, 1), (flip, 1), (lambda *_: None, 0)])
def test_cut_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[..., None], warnings: int
) -> None:
    writer = Writer(tmp_path / "users-0", seed=1)
    for _ in range(10):
        writer.write()
    writer.journal.close()
    (file,) = writer.path.glob("*.segment")
    harm(file, random.Random(1))
    with caplog.at_level(logging.WARNING):
        moment_at(writer.path)
        moment_at(writer.path)
    assert [str(writer.path) in record.getMessage() for record in caplog.records] == [True] * warnings


# -- merging ----------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Writer]:
    """Files with replaced values of users, and with users who are gone."""
    writer = Writer(tmp_path / "users-0", seed=3)
    for _ in range(6):
        for _ in range(8):
            writer.write()
        writer.reopen()
    assert len(writer.users) < len(NAMES)
    yield writer
    writer.journal.close()


def test_crash_at_any_step_of_a_merge_loses_no_user(many: Writer, tmp_path: Path) -> None:
    n_left = 0
    for n, _ in enumerate(many.journal.merging()):
        crashed = Path(shutil.copytree(many.path, tmp_path / f"crashed-{n}"))
        n_left += (crashed / "merging").exists()
        assert moment_at(crashed) == many.moments[-1]
        assert not (crashed / "merging").exists()
    assert n_left


def test_crash_before_merged_files_are_removed_brings_no_erased_user_back(many: Writer, tmp_path: Path) -> None:
    before = Path(shutil.copytree(many.path, tmp_path / "before"))
    merge(many.journal)
    for file in before.glob("*.segment"):
        if not (many.path / file.name).exists():
            shutil.copy(file, many.path)
    assert moment_at(Path(shutil.copytree(many.path, tmp_path / "crashed"))) == many.moments[-1]


def test_merge_leaves_one_file_with_each_user_once(many: Writer) -> None:
    merge(many.journal)
    (file,) = (path for path in many.path.glob("*.segment") if path.stat().st_size)
    values = sum(map(len, many.users.values()))
    assert values < file.stat().st_size < 2 * values + 30 * len(NAMES)
    assert moment(many.journal) == many.moments[-1]


def test_merge_of_an_empty_journal_changes_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path / "users-0")
    merge(journal)
    assert moment(journal) == (None, {})
    journal.close()


def write_rows(journal: Journal, first: int, last: int, *, is_standby: bool = False) -> None:
    """Write the users of these state rows, each with a thousand bytes in a block of its own."""
    for row in range(first, last):
        at = (journal.offset or 0) + 1
        rows = np.array([-1 if is_standby else row])
        journal.append(Users([b"user-%03d" % row], [value_at(at, bytes(1_000))], rows), at)


def test_journal_is_long_when_it_is_four_times_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_BYTES_MIN", 4_000)
    journal = opened(tmp_path / "users-0")
    write_rows(journal, 0, 20)
    assert not journal.is_long  # All that it has counts.
    for _ in range(2):
        write_rows(journal, 0, 20)
        assert not journal.is_long
    write_rows(journal, 0, 20)
    write_rows(journal, 0, 1)
    assert journal.is_long
    merge(journal)
    write_rows(journal, 0, 20)  # In another file, but these users were written before.
    write_rows(journal, 20, 30)
    for _ in range(2):
        assert not journal.is_long
        write_rows(journal, 0, 31)
    assert not journal.is_long
    write_rows(journal, 0, 15)
    assert journal.is_long
    journal.close()


@pytest.mark.parametrize("is_standby", [False, True])
def test_reopened_journal_knows_how_much_of_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_standby: bool
) -> None:
    monkeypatch.setattr(journals, "_BYTES_MIN", 4_000)
    journal = opened(tmp_path / "users-0")
    write_rows(journal, 0, 20)
    merge(journal)
    for _ in range(2):
        write_rows(journal, 0, 20)
    journal.close()
    journal = opened(tmp_path / "users-0")
    if not is_standby:
        moment(journal)
    write_rows(journal, 0, 14, is_standby=is_standby)
    assert not journal.is_long
    write_rows(journal, 0, 9, is_standby=is_standby)
    assert journal.is_long
    journal.close()


def test_journal_of_users_without_rows_is_merged_each_time_it_has_grown_fourfold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_BYTES_MIN", 4_000)
    journal, merged_at = opened(tmp_path / "users-0"), []
    for i in range(100):
        journal.append(Users.without_rows([b"%03d" % i], [value_at(i, bytes(1_000))]), i)
        if journal.is_long:
            merge(journal)
            merged_at.append(i)
    journal.close()
    assert merged_at == [3, 16, 68]


def test_merge_that_was_stopped_is_still_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_BYTES_MIN", 4_000)
    journal = opened(tmp_path / "users-0")
    for _ in range(6):
        write_rows(journal, 0, 3)
    steps = journal.merging()
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert journal.is_long
    journal.close()


def test_journal_is_long_when_it_has_many_files(tmp_path: Path) -> None:
    for i in range(18):
        journal = opened(tmp_path / "users-0")
        assert journal.is_long == (i > 16)
        journal.append(Users.without_rows([b"ann"], [value_at(i)]), i)
        journal.close()


# -- writing ----------------------------------------------------------------------------------------------


def test_failed_write_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path / "users-0")
    rows = np.arange(2)
    journal.append(Users([b"ann", b"bob"], [value_at(1), value_at(2)], rows), 1)

    def refuse(file: BinaryIO, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(journals, "_write", refuse)
        with pytest.raises(OSError, match="No space left"):
            journal.append(Users([b"ann", b"cid"], [value_at(3), value_at(4)], np.array([0, 2])), 2)
    assert journal.offset == 1
    journal.append(Users([b"cid", b"bob"], [value_at(5), value_at(6)], np.array([2, 1])), 3)
    expected = (3, {b"ann": value_at(1), b"bob": value_at(6), b"cid": value_at(5)})
    assert moment(journal) == expected
    journal.close()
    assert moment_at(tmp_path / "users-0") == expected


def test_write_goes_on_until_the_system_has_taken_all(tmp_path: Path) -> None:
    class Slow:
        taken = b""

        def write(self, data: memoryview) -> int:
            self.taken += bytes(data[:3])
            return min(3, len(data))

    slow: Any = Slow()
    journals._write(slow, b"eleven byte")
    assert slow.taken == b"eleven byte"


def test_key_of_a_state_row_is_written_once(tmp_path: Path) -> None:
    journal = opened(tmp_path / "users-0")
    key = b"a key of forty bytes, that is not short."
    for i in range(10):
        journal.append(Users([key], [value_at(i)], np.array([7])), i)
    journal.close()
    (file,) = (tmp_path / "users-0").glob("*.segment")
    assert file.read_bytes().count(key) == 1
    assert moment_at(tmp_path / "users-0") == (9, {key: value_at(9)})


def test_folder_of_another_journal_is_refused_until_it_is_unlocked(tmp_path: Path) -> None:
    journal = opened(tmp_path / "users-0")
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            Journal(tmp_path / "users-0")
    journal.close()
    opened(tmp_path / "users-0").close()
