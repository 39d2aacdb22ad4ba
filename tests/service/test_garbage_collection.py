"""What lives long is left out of collections, and what is garbage by then is not kept by that."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from stream.service.garbage_collection import collect_rarely, spare_nothing, spare_the_living


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


def test_cycles_that_were_spared_and_are_garbage_now_go_when_nothing_is_spared() -> None:
    cycle = Cycle()
    gone = weakref.ref(cycle)
    spare_the_living()
    del cycle
    gc.collect()
    assert gone() is not None
    spare_nothing()
    spare_the_living()
    assert gone() is None


def test_fetch_is_read_without_a_look_at_what_is_new() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        gc.collect()
        seen = gc.get_stats()[0]["collections"]
        kept = [[] for _ in range(4_000)]  # type: ignore[var-annotated]
        assert gc.get_stats()[0]["collections"] == seen
        assert len(kept) == 4_000
    finally:
        gc.set_threshold(*before)
