"""Erasures in any interleaving of events, scores, checkpoints and crashes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.state.erasure_bench import (
    Bench,
    assert_undisturbed,
)

USERS = st.sampled_from(["ann", "bob", "eve"])

STEPS = st.one_of(
    st.tuples(st.just("event"), USERS, st.integers(-20, 40)),
    st.tuples(st.just("again"), st.integers(0, 60)),
    st.tuples(st.just("erase"), USERS),
    st.tuples(st.just("ingest"), st.integers(1, 9)),
    st.tuples(st.just("checkpoint"), st.booleans()),
    st.tuples(st.just("begin_score"), st.booleans()),
    st.tuples(st.just("end_score"), st.integers(0, 3)),
    st.tuples(st.just("score")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("broken_checkpoint"), st.sampled_from(["dlq", "changelog", "scores"])),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)


async def go_through(steps: list[tuple[Any, ...]]) -> Bench:
    bench = Bench()
    for name, *arguments in steps:
        if name == "wait":
            bench.clock.advance(seconds=arguments[0])
        elif name == "broken_checkpoint":
            bench.topics.refused = arguments[0]
            with contextlib.suppress(ConnectionError):
                await bench.checkpoint()
            await bench.crash()
        else:
            done = getattr(bench, name)(*arguments)
            if asyncio.iscoroutine(done):
                await done
    await bench.finish()
    return bench


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=4, max_size=40))
@example(
    [
        *(("event", "ann", 0), ("ingest", 9), ("begin_score", False), ("erase", "ann"), ("ingest", 9)),
        *(("checkpoint", True), ("end_score", 0), ("crash",)),
    ]
)
@example([("event", "ann", -20), ("erase", "ann"), ("ingest", 9)])
def test_any_interleaving_of_events_erasures_scores_and_crashes_ends_like_an_undisturbed_reader(
    steps: list[tuple[Any, ...]],
) -> None:
    assert_undisturbed(asyncio.run(go_through(steps)))
