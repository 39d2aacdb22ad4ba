"""Private counts: the mechanism has the parameters that its promise needs. OpenDP itself makes the noise."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.commands.segments import private_counts as module
from stream.commands.segments.private_counts import private_counts
from stream.errors import ConfigError

COUNTS = {"low": 70_000, "medium": 20_000, "high": 10_000}


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 10))
def test_reported_epsilon_is_the_one_that_opendp_proves(epsilon: float) -> None:
    released = private_counts(COUNTS, epsilon)
    assert released.epsilon == pytest.approx(epsilon)
    assert released.scale == pytest.approx(1 / epsilon)
    assert released.sensitivity == 1


def test_noise_has_the_scale_of_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    class Exact:
        def __call__(self, counts: list[int]) -> list[int]:
            return [count - 20_001 for count in counts]

        def map(self, distance: int) -> float:
            return distance / asked[0]

    monkeypatch.setattr(module, "_laplace", lambda scale: asked.append(scale) or Exact())
    released = private_counts(COUNTS, 0.25)
    assert asked == [4.0]
    assert (released.epsilon, released.counts) == (0.25, {"low": 49_999, "medium": 0, "high": 0})


def test_empty_segments_are_named() -> None:
    released = private_counts({"low": 0, "medium": 0, "high": 0}, 1.0)
    assert list(released.counts) == ["low", "medium", "high"]
    assert all(type(count) is int and count >= 0 for count in released.counts.values())


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_spread_is_the_smallest_that_holds_95_percent(epsilon: float) -> None:
    a, spread = math.exp(-epsilon), private_counts(COUNTS, epsilon).spread
    beyond = [2 * a ** (k + 1) / (1 + a) for k in (spread - 1, spread)]
    assert beyond[1] <= 0.05 < beyond[0] or spread == 0


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 1e9, math.nan])
def test_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="--epsilon"):
        private_counts(COUNTS, epsilon)


def test_missing_opendp_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    with pytest.raises(ConfigError, match=r"valuestream\[privacy\]"):
        private_counts(COUNTS, 1.0)
