"""Inference: where the model is run, what is measured of a batch, and what a failure leaves."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from stream.clock import ManualClock
from stream.errors import ScoringError
from stream.metrics import Metrics
from stream.score.encode import encode
from stream.score.features import features
from stream.score.inference import Inference
from stream.score.scorer import DEMO_MODEL, RawScores, Scorer
from stream.state.partition_state import PartitionState, Snapshot
from tests.score.test_encode import event, fold_users
from tests.state.test_partition_state import DAY, START

#: Event counts of the users of :func:`state`: one, and as many as make ten and eleven events with it.
HISTORIES = (1, 9, 10)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(DEMO_MODEL)


@pytest.fixture(scope="module")
def state() -> PartitionState:
    return fold_users(*([event(START + 60 * i) for i in range(n)] for n in HISTORIES))


class SlowModel:
    """The demo model, which takes a millisecond per event, and notes whether it ran on the thread of the loop."""

    def __init__(self, scorer: Scorer, clock: ManualClock) -> None:
        self._scorer, self._clock = scorer, clock
        self.ran_on_loop: list[bool] = []
        self.failing = False

    def run(self, tokens: Any, numbers: Any) -> RawScores:
        self._clock.advance(seconds=0.001 * np.count_nonzero(tokens[:, :, 0]))
        self.ran_on_loop.append(threading.current_thread() is threading.main_thread())
        if self.failing:
            raise ScoringError("the model fails")
        return self._scorer.run(tokens, numbers)


class Bench:
    """An inference with a slow model, a clock that only the model moves, and its metrics."""

    def __init__(self, scorer: Scorer) -> None:
        self.clock, self.metrics = ManualClock(), Metrics()
        self.model = SlowModel(scorer, self.clock)
        self.inference = Inference(scorer=self.model, metrics=self.metrics, clock=self.clock)  # type: ignore[arg-type]

    async def run(self, state: PartitionState, *rows: int) -> RawScores:
        return await self.inference.run(*snapshot_of(state, *rows))

    def observed(self, name: str, **labels: str) -> tuple[float, float]:
        """How often something was observed, and the sum of it."""
        sample = self.metrics.registry.get_sample_value
        values = [sample(f"valuestream_{name}_{part}", labels) for part in ("count", "sum")]
        return values[0] or 0.0, values[1] or 0.0


def snapshot_of(state: PartitionState, *rows: int) -> tuple[Snapshot, np.ndarray]:
    snapshot = state.snapshot(np.array(rows, np.int64))
    return snapshot, snapshot.users["last_time"].astype(np.int64) + DAY


async def test_raw_scores_are_those_of_the_scorer_on_the_loop_and_in_the_thread(
    scorer: Scorer, state: PartitionState
) -> None:
    bench = Bench(scorer)
    snapshot, as_of = snapshot_of(state, 0, 1)
    expected = scorer.run(encode(snapshot, as_of), features(snapshot, as_of))
    for _ in range(2):
        assert (await bench.run(state, 0, 1)).columns.tobytes() == expected.columns.tobytes()
    assert bench.model.ran_on_loop == [False, True]


async def test_run_that_is_expected_to_take_ten_milliseconds_stays_on_the_loop_and_a_longer_one_leaves_it(
    scorer: Scorer, state: PartitionState
) -> None:
    bench = Bench(scorer)
    await bench.run(state, 0)
    await bench.run(state, 0, 1)
    await bench.run(state, 0, 2)
    # Nothing is known before the first run. The second has 10 events and takes 10 ms, the third has 11.
    assert bench.model.ran_on_loop == [False, True, False]


async def test_smaller_batch_is_not_expected_to_be_quicker_than_the_last(scorer: Scorer, state: PartitionState) -> None:
    bench = Bench(scorer)
    await bench.run(state, 0, 2)
    await bench.run(state, 0)
    await bench.run(state, 0)
    # The second follows a run of 11 ms, the third follows one of 1 ms.
    assert bench.model.ran_on_loop == [False, False, True]


@pytest.mark.parametrize("on_loop", [True, False])
async def test_failing_model_raises_is_not_timed_and_does_not_change_where_the_next_run_goes(
    scorer: Scorer, state: PartitionState, on_loop: bool
) -> None:
    bench = Bench(scorer)
    if on_loop:
        await bench.run(state, 0)
    before = [bench.observed("stage_seconds", stage="infer"), bench.observed("batch_users")]
    bench.model.failing = True
    with pytest.raises(ScoringError, match="the model fails"):
        await bench.run(state, 0)
    assert [bench.observed("stage_seconds", stage="infer"), bench.observed("batch_users")] == before
    bench.model.failing = False
    await bench.run(state, 0)
    assert bench.model.ran_on_loop[-2:] == [on_loop, on_loop]


async def test_stages_and_batches_are_observed_once_per_run(scorer: Scorer, state: PartitionState) -> None:
    bench = Bench(scorer)
    first = await bench.run(state, 0)
    second = await bench.run(state, 0, 1)
    assert bench.observed("batch_users") == (2, 1 + 2)
    assert bench.observed("batch_tokens") == (2, first.n_positions + second.n_positions)
    padding = (1 - 1 / first.n_positions) + (1 - 10 / second.n_positions)
    assert bench.observed("padding_ratio") == (2, pytest.approx(padding))
    assert bench.observed("stage_seconds", stage="infer") == (2, pytest.approx(0.001 + 0.010))
    for stage in ("features", "encode"):
        assert bench.observed("stage_seconds", stage=stage) == (2, 0)


async def test_work_in_the_thread_is_done_beside_the_loop_one_at_a_time_and_returns_or_raises(scorer: Scorer) -> None:
    inference = Bench(scorer).inference
    threads = [await inference.in_thread(threading.current_thread) for _ in range(3)]
    assert threads[0] is not threading.main_thread()
    assert len(set(threads)) == 1
    assert await inference.in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await inference.in_thread(divmod, 7, 0)
