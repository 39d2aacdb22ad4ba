"""Snapshot: copy some users at one moment, for the stages that score while the state goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.arrays import BucketRows, HistoryRows, Slots, UserRows
from stream.state.rings import opaque

__all__ = ["Snapshot"]

#: What an array of records holds.
Item = TypeVar("Item", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of some users, safe to use while the state goes on.

    ``users`` is ``(n,)`` of ``USER``. ``history`` is ``(n, HISTORY_LEN)`` of ``HISTORY``, oldest first; the first
    ``users["history_len"]`` entries are valid. ``buckets`` is ``(m, BUCKET_SLOTS)`` of ``BUCKET``, for the users who
    have some: ``bucketed`` holds their indices into ``users``.
    """

    ids: list[str]
    users: UserRows
    history: HistoryRows
    bucketed: Slots
    buckets: BucketRows

    def take(self, indices: Slots) -> Snapshot:
        """The users at these indices, which must ascend."""
        bucketed = np.isin(self.bucketed, indices)
        return Snapshot(
            [self.ids[i] for i in indices.tolist()],
            self.users[indices],
            self.history[indices],
            np.searchsorted(indices, self.bucketed[bucketed]),
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


def _joined(arrays: Sequence[NDArray[Item]]) -> NDArray[Item]:
    """These arrays of records, one after the other."""
    shape, dtype = arrays[0].shape[1:], arrays[0].dtype
    joined: NDArray[Item] = np.concatenate([opaque(array) for array in arrays]).view(dtype).reshape(-1, *shape)
    return joined
