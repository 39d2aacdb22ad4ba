"""Rings: what is read from them is what was put in, oldest first, and views are views."""

from __future__ import annotations

import numpy as np
import pytest

from stream.contract.columns import HISTORY
from stream.state.rings import beginnings, oldest_first, opaque, opaque_rows, unrolled


def filled(n_entries: int, size: int = 8) -> tuple[np.ndarray, int]:
    """A ring after this many entries, numbered from 1, and its next slot."""
    ring = np.zeros(size, HISTORY)
    for i in range(n_entries):
        ring[i % size]["time"] = i + 1
    return ring, n_entries % size


@pytest.mark.parametrize("n_entries", [1, 7, 8, 9, 16, 21])
def test_entries_are_read_oldest_first(n_entries: int) -> None:
    ring, next_slot = filled(n_entries)
    kept = list(range(max(1, n_entries - 7), n_entries + 1))
    assert unrolled(ring, min(n_entries, 8), next_slot)["time"].tolist() == kept
    rings = np.stack([ring, np.zeros_like(ring), ring])
    if n_entries >= 8:
        turned = oldest_first(rings, np.array([2, 1, 0]), np.array([next_slot, 0, next_slot]))
        assert turned["time"].tolist() == [kept, [0] * 8, kept]


def test_opaque_views_share_the_memory_of_their_array() -> None:
    rings = np.stack([filled(8)[0], filled(3)[0]])
    for view, n_items in ((opaque(rings), 16), (opaque_rows(rings), 2), (beginnings(rings, 26), 2)):
        assert view.shape == (n_items,)
        assert np.shares_memory(view, rings)
    assert beginnings(rings, 26)[1].tobytes() == rings[1].tobytes()[:26]
