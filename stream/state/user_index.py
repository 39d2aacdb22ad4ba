"""Index: find the state rows of a whole batch of users at once.

A dictionary finds one user after the other, and waits for memory about four times for each: with millions of users that
is an eighth of ingestion. Here a user is two hashes of 64 bits in arrays, and numpy looks up all users of a batch
together. The first hash is Python's own, which has a new key in each process; it says where to look. The second is
XXH3; it says whether the user found there is the right one. The chance that both hashes are the same for two of ten
million users is 1.5e-25.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Final, NamedTuple

import numpy as np
import xxhash

from stream.arrays import Hashes, Rows, Rows32, Slots
from stream.state.rings import opaque_rows
from stream.state.runs import Runs, order_by_user

__all__ = ["UserIndex"]

#: Places in a bucket of the hash table. Their hashes lie side by side, so that memory is fetched once for all of them.
_BUCKET: Final = 8
_BUCKETS_MIN_BITS: Final = 7
#: At most this share of the places is taken. So few buckets are full, and hardly any look-up goes on to a second one.
_TAKEN_MAX: Final = 0.6


class _Hashed(NamedTuple):
    """Both hashes of each user. The first is never 0, because 0 marks a free place."""

    first: Hashes
    second: Hashes

    @classmethod
    def from_users(cls, users: list[str]) -> _Hashed:
        n = len(users)
        first = np.fromiter(map(hash, users), np.int64, n).view(np.uint64)
        second = np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, users)), np.uint64, n)
        return cls(np.maximum(first, np.uint64(1)), second)


class UserIndex:
    """User ids → state rows."""

    def __init__(self) -> None:
        #: Rows of users who share their first hash with an earlier user; most likely there is never one.
        self._others: dict[str, int] = {}
        self._make_buckets(_BUCKETS_MIN_BITS)

    def _make_buckets(self, bits: int) -> None:
        """Start with empty buckets, two to the power of ``bits``."""
        self._bits, self._n_taken = bits, 0
        self._first: Hashes = np.zeros((1 << bits, _BUCKET), np.uint64)
        self._second: Hashes = np.zeros(self._first.size, np.uint64)
        #: State row of the user at each place; -1 if the user was discarded, or nobody is there.
        self._rows: Rows32 = np.full(self._first.size, -1, np.int32)

    # -- looking up -----------------------------------------------------------------------------------------

    def rows(self, users: list[str]) -> Rows:
        """The row of each user, -1 if there is none; shape ``(len(users),)``.

        >>> index = UserIndex()
        >>> index.add(["ann", "bob"], 7)
        >>> index.rows(["bob", "cid", "ann"]).tolist()
        [8, -1, 7]
        """
        hashed = _Hashed.from_users(users)
        places = self._places(hashed.first)
        rows: Rows = self._rows[places].astype(np.int64)
        rows[places < 0] = -1
        for i in np.flatnonzero((self._second[places] != hashed.second) & (places >= 0)).tolist():
            rows[i] = self._others.get(users[i], -1)
        return rows

    def row(self, user: str) -> int:
        """The row of one user, -1 if there is none."""
        return int(self.rows([user])[0])

    def _places(self, first: Hashes) -> Slots:
        """The place of each first hash, -1 if there is none."""
        buckets = self._buckets(first)
        known = self._known(buckets)
        nth = (known == first[:, None]).argmax(axis=1)
        places: Slots = buckets * _BUCKET + nth
        missing = np.flatnonzero(known[np.arange(len(nth)), nth] != first)
        if len(missing):
            places[missing] = -1
            # If a bucket is full, go on with the next one.
            missing = missing[known[missing, -1] > 0]
            while len(missing):
                buckets[missing] = self._next(buckets[missing])
                known = self._known(buckets[missing])
                found, nth = np.nonzero(known == first[missing, None])
                places[missing[found]] = buckets[missing[found]] * _BUCKET + nth
                missing = missing[(known[:, -1] > 0) & (places[missing] < 0)]
        return places

    def _buckets(self, first: Hashes) -> Slots:
        """The bucket where each first hash belongs. They ascend with the hash."""
        buckets: Slots = (first >> np.uint64(64 - self._bits)).astype(np.int64)
        return buckets

    def _next(self, buckets: Slots) -> Slots:
        """The bucket after each of these; after the last comes the first."""
        following: Slots = (buckets + 1) & (len(self._first) - 1)
        return following

    def _known(self, buckets: Slots) -> Hashes:
        """The first hashes in these buckets; shape ``(len(buckets), _BUCKET)``."""
        known: Hashes = opaque_rows(self._first)[buckets].view(np.uint64).reshape(-1, _BUCKET)
        return known

    # -- changing -------------------------------------------------------------------------------------------

    def add(self, users: list[str], row: int) -> None:
        """Give users who have no row the rows from this one on. Each user is named once."""
        first, second = _Hashed.from_users(users)
        # Sorted by hash they are sorted by bucket, so that memory is written from front to back.
        order = first.argsort()
        first, second, rows = first[order], second[order], row + order
        if (first[1:] == first[:-1]).any():
            for i, user in enumerate(users):
                self.add([user], row + i)
            return
        for i, place in self._put(first, second, rows):
            if self._second[place] == second[i]:
                self._rows[place] = rows[i]  # The user was discarded and comes back.
            else:
                self._others[users[order[i]]] = int(rows[i])

    def discard(self, user: str) -> None:
        """Forget a user, if there is one. Their place stays taken, because others may have been put behind it."""
        first, second = _Hashed.from_users([user])
        places = self._places(first)
        if places[0] >= 0 and self._second[places] == second:
            self._rows[places] = -1
        self._others.pop(user, None)

    def _put(self, first: Hashes, second: Hashes, rows: Rows | Rows32) -> list[tuple[int, int]]:
        """Take a place for each of these first hashes, which must ascend.

        A first hash that has a place already is not put: its index and that place are returned.
        """
        self.make_room(self._n_taken + len(first))
        buckets, left, present = self._buckets(first), np.arange(len(first)), list[tuple[int, int]]()
        while len(left):
            known = self._known(buckets[left])
            same, nth = np.nonzero(known == first[left, None])
            if len(same):
                present += zip(left[same].tolist(), (buckets[left[same]] * _BUCKET + nth).tolist(), strict=True)
                known, left = np.delete(known, same, axis=0), np.delete(left, same)
            nth = np.count_nonzero(known, axis=1) + Runs.within(buckets[left]).rank
            put, left = left[nth < _BUCKET], left[nth >= _BUCKET]
            places = buckets[put] * _BUCKET + nth[nth < _BUCKET]
            self._first.reshape(-1)[places] = first[put]
            self._second[places], self._rows[places] = second[put], rows[put]
            self._n_taken += len(put)
            buckets[left] = self._next(buckets[left])
            left = left[order_by_user(buckets[left])]
        return present

    def make_room(self, n_users: int) -> None:
        """Make room for this many users. If there is too little, there is at least twice as much after."""
        if n_users <= _TAKEN_MAX * self._first.size:
            return
        taken = np.flatnonzero(self._first)
        first, second, rows = self._first.reshape(-1)[taken], self._second[taken], self._rows[taken]
        self._make_buckets(max(self._bits + 1, ceil(log2(n_users / _TAKEN_MAX / _BUCKET))))
        order = first.argsort()
        self._put(first[order], second[order], rows[order])
