"""Memory of the columns: growth takes the room there is, and zeros are zeros."""

from __future__ import annotations

import errno
import mmap
from typing import Any

import numpy as np
import pytest

from stream.contract.columns import HISTORY
from stream.state.memory import fault_in, grown, zeros


def test_growth_takes_as_much_room_as_the_system_gives(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("shape", [(0,), (3,), (1_000, 64)])
def test_zeros_are_like_those_of_numpy_and_can_be_written(shape: tuple[int, ...]) -> None:
    array = zeros(shape, HISTORY)
    assert (array.shape, array.dtype) == (shape, HISTORY)
    assert not array.view(np.uint8).any()
    array["time"] += 7
    assert (array["time"] == 7).all()


@pytest.mark.parametrize(("first", "end"), [(0, 0), (0, 1), (3, 900), (999, 1_000)])
def test_memory_that_is_faulted_in_keeps_its_content(first: int, end: int) -> None:
    column = zeros((1_000, 64), HISTORY)
    column["time"][::7] = 5
    fault_in(column, first, end)
    assert np.count_nonzero(column["time"] == 5) == 64 * len(range(0, 1_000, 7))
    assert not column["value"].any()
