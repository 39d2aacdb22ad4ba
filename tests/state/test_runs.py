"""Runs and orders against what numpy's own stable sort gives."""

from __future__ import annotations

import random

import numpy as np

from stream.state.runs import Runs, distinct, order_by_user


def test_runs_and_order_match_a_stable_sort() -> None:
    rng = np.random.default_rng(random.Random(4).getrandbits(32))
    for n in (0, 1, 2, 100):
        users = rng.integers(0, 1 + n // 3, n)
        order = order_by_user(users)
        assert order.tolist() == np.argsort(users, kind="stable").tolist()
        assert distinct(users).tolist() == np.unique(users).tolist()
        runs = Runs.within(users[order])
        assert runs.rows.tolist() == np.unique(users).tolist()
        assert np.repeat(runs.rows, runs.counts).tolist() == users[order].tolist()
        assert (runs.starts[runs.run_of] + runs.rank).tolist() == list(range(n))
        assert (runs.rank + runs.from_end + 1).tolist() == runs.counts[runs.run_of].tolist()
        assert runs.longest == max(runs.counts.tolist(), default=1)
