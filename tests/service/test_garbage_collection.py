"""Tests of garbage collection: it spares objects that live long, and still frees them when they become garbage."""

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


def test_later_collections_do_not_look_at_spared_objects() -> None:
    spared = [Cycle() for _ in range(1_000)]
    spare_the_living()
    looked_at = {id(thing) for thing in gc.get_objects()}
    assert not [cycle for cycle in spared if id(cycle) in looked_at]


def test_spared_cycles_that_become_garbage_are_freed_when_nothing_is_spared() -> None:
    cycle = Cycle()
    reference = weakref.ref(cycle)
    spare_the_living()
    del cycle
    gc.collect()
    assert reference() is not None
    spare_nothing()
    spare_the_living()
    assert reference() is None


def test_objects_of_one_fetch_start_no_collection() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        gc.collect()
        before_fetch = gc.get_stats()[0]["collections"]
        objects = [[] for _ in range(4_000)]  # type: ignore[var-annotated]
        assert gc.get_stats()[0]["collections"] == before_fetch
        assert len(objects) == 4_000
    finally:
        gc.set_threshold(*before)
