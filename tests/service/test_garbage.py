"""What lives long is left out of collections, and what is garbage by then is not kept by that."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from stream.service.garbage import spare_the_living


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_alive_is_not_looked_at_by_later_collections() -> None:
    alive = [Cycle() for _ in range(1_000)]
    spare_the_living()
    looked_at = {id(found) for found in gc.get_objects()}
    assert not [one for one in alive if id(one) in looked_at]


def test_cycles_that_were_spared_and_are_garbage_now_go_at_the_next_call() -> None:
    cycle = Cycle()
    gone = weakref.ref(cycle)
    spare_the_living()
    del cycle
    gc.collect()
    assert gone() is not None
    spare_the_living()
    assert gone() is None
