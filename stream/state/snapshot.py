"""Snapshot: some users as they are at one moment, for the stages that score while the state goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.state.rings import opaque

__all__ = ["Snapshot"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of some users, safe to use while the state goes on.

    ``users`` is ``(n,)`` of ``USER``; ``history`` is ``(n, HISTORY_LEN)`` of ``HISTORY``, oldest first, valid in
    its first ``users["history_len"]`` entries; ``buckets`` is ``(m, BUCKET_SLOTS)`` of ``BUCKET`` for the users at
    ``bucketed`` (indices into ``users``).
    """

    ids: list[str]
    users: Array
    history: Array
    bucketed: Array
    buckets: Array

    def take(self, which: Array) -> Snapshot:
        """The users at these indices, which ascend."""
        bucketed = np.isin(self.bucketed, which)
        return Snapshot(
            [self.ids[i] for i in which.tolist()],
            self.users[which],
            self.history[which],
            np.searchsorted(which, self.bucketed[bucketed]),
            self.buckets[bucketed],
        )

    @classmethod
    def joined(cls, snapshots: Sequence[Snapshot]) -> Snapshot:
        """The users of several snapshots, one after the other."""
        if len(snapshots) == 1:
            return snapshots[0]
        starts = np.cumsum([0, *(len(s.ids) for s in snapshots[:-1])]).tolist()
        return cls(
            [user for s in snapshots for user in s.ids],
            _joined([s.users for s in snapshots]),
            _joined([s.history for s in snapshots]),
            np.concatenate([s.bucketed + start for s, start in zip(snapshots, starts, strict=True)]),
            _joined([s.buckets for s in snapshots]),
        )


def _joined(arrays: Sequence[Array]) -> Array:
    """These arrays of records, one after the other."""
    shape, dtype = arrays[0].shape[1:], arrays[0].dtype
    joined: Array = np.concatenate([opaque(array) for array in arrays]).view(dtype).reshape(-1, *shape)
    return joined
