"""The index gives the answers of a dictionary, also when hashes collide."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.state import user_index
from stream.state.user_index import UserIndex, _Hashed

Hash = Callable[[str], int]


def hashed(first: Hash, second: Hash) -> Callable[[list[str]], _Hashed]:
    """A replacement for ``_Hashed.from_users`` with these hashes."""

    def from_users(users: list[str]) -> _Hashed:
        return _Hashed(np.array([*map(first, users)], np.uint64), np.array([*map(second, users)], np.uint64))

    return from_users


def number(user: str) -> int:
    return int(user[1:]) + 1


HASHES = {
    "real": _Hashed.from_users,
    "one bucket and the ones behind it": hashed(number, number),
    "the last bucket and the first": hashed(lambda user: 2**64 - 1 - number(user), number),
    "few first hashes": hashed(lambda user: number(user) % 7 << 60, number),
    "one first hash": hashed(lambda user: 1, number),
}


@pytest.mark.parametrize("hashes", HASHES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_index_gives_the_answers_of_a_dictionary(hashes: str, seed: int) -> None:
    rng, known, index = random.Random(seed), dict[str, int](), UserIndex()
    names = [f"u{i}" for i in range(rng.choice((20, 200, 3_000) if hashes == "real" else (20, 200)))]
    row = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(user_index._Hashed, "from_users", staticmethod(HASHES[hashes]))
        for _ in range(rng.randrange(1, 12)):
            batch = rng.sample(names, rng.randrange(len(names)))
            assert index.rows(batch).tolist() == [known.get(user, -1) for user in batch]
            new = [user for user in batch if user not in known]
            index.add(new, row)
            known |= {user: row + i for i, user in enumerate(new)}
            row += len(new)
            for user in rng.sample(batch, len(batch) // 5):
                index.discard(user)
                known.pop(user, None)
            twice = batch + batch[:3]
            assert index.rows(twice).tolist() == [known.get(user, -1) for user in twice]
        assert index.rows(names).tolist() == [known.get(user, -1) for user in names]
        assert [index.row(user) for user in names[:20]] == [known.get(user, -1) for user in names[:20]]


def test_user_id_of_any_characters_and_length_is_found() -> None:
    index, users = UserIndex(), ["küche", "", "x" * 256, "\ud7ff", "日本"]
    index.add(users, 0)
    assert index.rows(users[::-1]).tolist() == [4, 3, 2, 1, 0]
    assert index.row("kuche") == -1


def test_empty_batch_can_be_added_and_looked_up() -> None:
    index = UserIndex()
    index.add([], 0)
    assert index.rows([]).tolist() == []


def test_index_takes_fewer_than_67_bytes_a_user() -> None:
    index = UserIndex()
    for start in range(0, 100_000, 5_000):
        index.add([f"user-{i}" for i in range(start, start + 5_000)], start)
    assert (index._first.nbytes + index._second.nbytes + index._rows.nbytes) / 100_000 < 67
    assert (
        index.rows([f"user-{i}" for i in range(0, 200_000, 1_000)]).tolist() == [*range(0, 100_000, 1_000)] + [-1] * 100
    )
