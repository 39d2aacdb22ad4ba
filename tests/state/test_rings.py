"""Growth, runs and the columns that are copied as they stand."""

from __future__ import annotations

import errno
import mmap
import random
from typing import Any

import numpy as np
import pytest

from stream.contract.columns import EVENT_PARTS, HISTORY
from stream.contract.events import EVENT
from stream.state.rings import Runs, fault_in, grown, order_by_user, zeros
from tests.state.reference import Plain
from tests.state.test_partition_state import START, fold


def test_entry_of_the_history_is_the_end_of_an_event_as_it_stands() -> None:
    offsets = EVENT.fields or {}
    for name in HISTORY.names or ():
        dtype, offset = (HISTORY.fields or {})[name][:2]
        assert offsets[name][:2] == (dtype, offset + (EVENT_PARTS.fields or {})["entry"][1])
    for name in set(EVENT_PARTS.names or ()) - {"entry"}:
        assert (EVENT_PARTS.fields or {})[name][:2] == offsets[name][:2]
    assert EVENT_PARTS.itemsize == EVENT.itemsize


def test_columns_are_copied_once_as_users_come() -> None:
    few = fold([[Plain(START, f"u{i}", i + 1, 2) for i in range(2_000)]])
    columns = few.users, few.history, few.seen, few.returned
    few.rows_of([f"v{i}" for i in range(50_000)])
    assert all(now is then for now, then in zip((few.users, few.history, few.seen, few.returned), columns, strict=True))
    assert few.users["n_events"][:2_000].all()


def test_growth_takes_what_room_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(_: int, n_bytes: int, flags: int) -> Any:
        if n_bytes > 5_000 * 16:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return anonymous(-1, n_bytes, flags)

    anonymous = mmap.mmap
    monkeypatch.setattr(mmap, "mmap", scarce)
    column = np.arange(8).reshape(4, 2)
    assert 3_000 <= len(grown(column, 3_000)) <= 5_000
    assert grown(column, 5_000)[:5].tolist() == [*column.tolist(), [0, 0]]
    with pytest.raises(MemoryError):
        grown(column, 5_001)


def test_runs_and_order_are_those_of_a_stable_sort() -> None:
    rng = np.random.default_rng(random.Random(4).getrandbits(32))
    for n in (0, 1, 2, 100):
        users = rng.integers(0, 1 + n // 3, n)
        order = order_by_user(users)
        assert order.tolist() == np.argsort(users, kind="stable").tolist()
        runs = Runs.within(users[order])
        assert runs.rows.tolist() == np.unique(users).tolist()
        assert np.repeat(runs.rows, runs.counts).tolist() == users[order].tolist()
        assert (runs.starts[runs.run_of] + runs.rank).tolist() == list(range(n))
        assert (runs.rank + runs.from_end + 1).tolist() == runs.counts[runs.run_of].tolist()
        assert runs.longest == max(runs.counts.tolist(), default=1)


@pytest.mark.parametrize("shape", [(0,), (3,), (1_000, 64)])
def test_zeros_are_those_of_numpy_and_may_be_written(shape: tuple[int, ...]) -> None:
    found = zeros(shape, HISTORY)
    assert (found.shape, found.dtype) == (shape, HISTORY)
    assert not found.view(np.uint8).any()
    found["time"] += 7
    assert (found["time"] == 7).all()


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (3, 900), (999, 1_000)])
def test_memory_that_is_asked_for_early_keeps_what_is_in_it(first: int, last: int) -> None:
    column = zeros((1_000, 64), HISTORY)
    column["time"][::7] = 5
    fault_in(column, first, last)
    assert np.count_nonzero(column["time"] == 5) == 64 * len(range(0, 1_000, 7))
    assert not column["value"].any()
