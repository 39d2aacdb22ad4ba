"""Tests of the commit protocol under seeded schedules: whatever breaks, the result is that of an undisturbed run.

A failing schedule names its seed. ``python -m tests.simulation.run --seed 123`` shows it step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.simulation.faults import ALWAYS, FAULTS
from tests.simulation.process import Process
from tests.simulation.sabotage import SABOTAGES
from tests.simulation.world import InvariantError, World

# A process that is killed leaves coroutines that never began.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

#: Schedules in one test. A core runs some 15 of them a second.
_SEEDS = 25
#: A sabotage must be noticed within so many schedules. Most are noticed in the first ten.
_UNNOTICED_MAX = 200


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Silence the logs of workers, which are full of the faults around them."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 4 * _SEEDS, _SEEDS))
def test_nothing_is_lost_and_nothing_counts_twice_whatever_breaks(first: int) -> None:
    for seed in range(first, first + _SEEDS):
        World(seed).run()


class Operator(RuleBasedStateMachine):
    """Breaks a world step by step. Hypothesis shrinks a failure to the fewest faults that cause it."""

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = World(seed)
        self.world.start(0)

    @rule(steps=st.integers(1, 80))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.world.step()

    @rule(fault=st.sampled_from([*FAULTS, *ALWAYS]))
    def break_something(self, fault: Callable[[World], None]) -> None:
        fault(self.world)

    def teardown(self) -> None:
        self.world.settle()


def test_no_order_of_faults_breaks_an_invariant() -> None:
    run_state_machine_as_test(
        Operator,
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_a_sabotaged_protocol_is_noticed(sabotage: Callable[[Process], None]) -> None:
    with pytest.raises(InvariantError):
        for seed in range(_UNNOTICED_MAX):
            World(seed, sabotage=sabotage).run()


def test_one_seed_always_gives_the_same_schedule() -> None:
    traces = []
    for _ in range(2):
        world = World(7)
        world.run()
        traces.append(world.trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 50
