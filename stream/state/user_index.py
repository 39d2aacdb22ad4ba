"""Index: which state row a user has, looked up for a whole batch at once.

A dictionary finds one user after the other and waits for memory some four times for each: with millions of users that
is an eighth of ingestion. Here a user is two hashes of 64 bits in arrays, where numpy looks for all of a batch at the
same time. By the first, Python's own, which is keyed anew in each process, a user is found; by the second, XXH3, it is
that user and no other. Both are alike for two of ten million users with a chance of 1.5e-25.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from stream.state.rings import Runs, opaque_rows, order_by_user

__all__ = ["UserIndex"]

Array = npt.NDArray[Any]
#: Places in a bucket: their hashes are one piece of memory, which is fetched as one.
_BUCKET: Final = 8
_BUCKETS_MIN_BITS: Final = 7
#: Share of the places that is taken at most: so few buckets are full, and hardly any user is looked for in a second.
_TAKEN_MAX: Final = 0.6


class _Hashed(NamedTuple):
    """Both hashes of each user, as uint64. The first is never 0, which stands for a place that is free."""

    first: Array
    second: Array

    @classmethod
    def from_users(cls, users: list[str]) -> _Hashed:
        n = len(users)
        first = np.fromiter(map(hash, users), np.int64, n).view(np.uint64)
        second = np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, users)), np.uint64, n)
        return cls(np.maximum(first, np.uint64(1)), second)


class UserIndex:
    """User ids → state rows."""

    def __init__(self) -> None:
        #: Users whose first hash is that of another as well; most likely none, ever.
        self._others: dict[str, int] = {}
        self._make_buckets(_BUCKETS_MIN_BITS)

    def _make_buckets(self, bits: int) -> None:
        """Empty buckets, two to the power of ``bits``."""
        self._bits, self._n_taken = bits, 0
        self._first: Array = np.zeros((1 << bits, _BUCKET), np.uint64)
        self._second: Array = np.zeros(self._first.size, np.uint64)
        #: -1 where the user is gone.
        self._rows: Array = np.full(self._first.size, -1, np.int32)

    # -- looking up -----------------------------------------------------------------------------------------

    def rows(self, users: list[str]) -> Array:
        """The row of each user, -1 where there is none; shape ``(len(users),)``.

        >>> index = UserIndex()
        >>> index.add(["ann", "bob"], 7)
        >>> index.rows(["bob", "cid", "ann"]).tolist()
        [8, -1, 7]
        """
        hashed = _Hashed.from_users(users)
        places = self._places(hashed.first)
        rows: Array = self._rows[places].astype(np.int64)
        rows[places < 0] = -1
        for i in np.flatnonzero((self._second[places] != hashed.second) & (places >= 0)).tolist():
            rows[i] = self._others.get(users[i], -1)
        return rows

    def row(self, user: str) -> int:
        """The row of one user, -1 where there is none."""
        return int(self.rows([user])[0])

    def _places(self, first: Array) -> Array:
        """The place of each first hash, -1 where there is none."""
        buckets = self._buckets(first)
        known = self._known(buckets)
        nth = (known == first[:, None]).argmax(axis=1)
        places: Array = buckets * _BUCKET + nth
        missing = np.flatnonzero(known[np.arange(len(nth)), nth] != first)
        if len(missing):
            places[missing] = -1
            # Of a bucket that is full, the rest is in the next.
            missing = missing[known[missing, -1] > 0]
            while len(missing):
                buckets[missing] = self._next(buckets[missing])
                known = self._known(buckets[missing])
                found, nth = np.nonzero(known == first[missing, None])
                places[missing[found]] = buckets[missing[found]] * _BUCKET + nth
                missing = missing[(known[:, -1] > 0) & (places[missing] < 0)]
        return places

    def _buckets(self, first: Array) -> Array:
        buckets: Array = (first >> np.uint64(64 - self._bits)).astype(np.int64)
        return buckets

    def _next(self, buckets: Array) -> Array:
        following: Array = (buckets + 1) & (len(self._first) - 1)
        return following

    def _known(self, buckets: Array) -> Array:
        """The first hashes in these buckets; shape ``(len(buckets), _BUCKET)``."""
        known: Array = opaque_rows(self._first)[buckets].view(np.uint64).reshape(-1, _BUCKET)
        return known

    # -- changing -------------------------------------------------------------------------------------------

    def add(self, users: list[str], row: int) -> None:
        """Give users who have no row, each named once, the rows from this one on."""
        first, second = _Hashed.from_users(users)
        order = first.argsort()  # So by buckets too, and what is written next lies behind what was written last.
        first, second, rows = first[order], second[order], row + order
        if (first[1:] == first[:-1]).any():
            for i, user in enumerate(users):
                self.add([user], row + i)
            return
        for i, place in self._put(first, second, rows):
            if self._second[place] == second[i]:
                self._rows[place] = rows[i]  # Who comes back.
            else:
                self._others[users[order[i]]] = int(rows[i])

    def discard(self, user: str) -> None:
        """Forget a user, if there is one. The place stays theirs, as others may have been put behind it."""
        first, second = _Hashed.from_users([user])
        places = self._places(first)
        if places[0] >= 0 and self._second[places] == second:
            self._rows[places] = -1
        self._others.pop(user, None)

    def _put(self, first: Array, second: Array, rows: Array) -> list[tuple[int, int]]:
        """Take places for these first hashes, which ascend; those that have one already, each with its place."""
        self.make_room(self._n_taken + len(first))
        buckets, left, had = self._buckets(first), np.arange(len(first)), list[tuple[int, int]]()
        while len(left):
            known = self._known(buckets[left])
            same, nth = np.nonzero(known == first[left, None])
            if len(same):
                had += zip(left[same].tolist(), (buckets[left[same]] * _BUCKET + nth).tolist(), strict=True)
                known, left = np.delete(known, same, axis=0), np.delete(left, same)
            nth = np.count_nonzero(known, axis=1) + Runs.within(buckets[left]).rank
            put, left = left[nth < _BUCKET], left[nth >= _BUCKET]
            places = buckets[put] * _BUCKET + nth[nth < _BUCKET]
            self._first.reshape(-1)[places] = first[put]
            self._second[places], self._rows[places] = second[put], rows[put]
            self._n_taken += len(put)
            buckets[left] = self._next(buckets[left])
            left = left[order_by_user(buckets[left])]
        return had

    def make_room(self, n_users: int) -> None:
        """Have room for so many users; where there is none, at least twice as much as before."""
        if n_users <= _TAKEN_MAX * self._first.size:
            return
        taken = np.flatnonzero(self._first)
        first, second, rows = self._first.reshape(-1)[taken], self._second[taken], self._rows[taken]
        self._make_buckets(max(self._bits + 1, ceil(log2(n_users / _TAKEN_MAX / _BUCKET))))
        order = first.argsort()
        self._put(first[order], second[order], rows[order])
