"""The commit protocol under seeded schedules: whatever breaks and in whatever order, it comes out as if nothing had.

A schedule that fails names its seed; ``python -m tests.simulation.run --seed 123`` tells it step by step.
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

# Of the coroutines of a process that was killed before they began.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

#: Schedules of one test; a core runs some 15 a second.
_SEEDS = 25
#: The most schedules in which a sabotage may go unnoticed; most are noticed among the first ten.
_UNNOTICED_MAX = 200


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What workers log while everything around them breaks is not of interest."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 4 * _SEEDS, _SEEDS))
def test_nothing_is_lost_and_nothing_counts_twice_whatever_breaks(first: int) -> None:
    for seed in range(first, first + _SEEDS):
        World(seed).run()


class Operator(RuleBasedStateMachine):
    """Breaks a world by hand; a failure is shrunk to the fewest faults that bring it about."""

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


def test_no_order_of_faults_breaks_it() -> None:
    run_state_machine_as_test(
        Operator,
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.__name__)
def test_broken_protocol_is_noticed(sabotage: Callable[[Process], None]) -> None:
    with pytest.raises(InvariantError):
        for seed in range(_UNNOTICED_MAX):
            World(seed, sabotage=sabotage).run()


def test_schedule_is_the_same_for_the_same_seed() -> None:
    traces = []
    for _ in range(2):
        world = World(7)
        world.run()
        traces.append(world.trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 50
