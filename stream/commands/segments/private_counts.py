"""Private counts: how many users are in each segment, with so much noise that no single user can be found out.

The counts have ε-differential privacy (Dwork et al. 2006) by the discrete Laplace mechanism. OpenDP samples the noise
exactly, so that it has none of the floating-point leaks that Mironov (2012) found. Two sets of users are neighbours if
one of them has exactly one user more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from stream.errors import ConfigError

__all__ = ["PrivateCounts", "private_counts"]

#: The L1 distance of neighbouring counts: a user is in one segment only, so one user more changes one count by one.
_SENSITIVITY: Final = 1
#: Below the minimum, the noise is larger than a million users. Above the maximum, there is hardly any noise.
_EPSILON_MIN, _EPSILON_MAX = 1e-6, 20.0


class PrivateCounts(msgspec.Struct, frozen=True):
    """Noisy counts and what they promise. The noise of 95 % of counts is at most ``spread``."""

    epsilon: float
    mechanism: str
    sensitivity: int
    scale: float
    spread: int
    counts: dict[str, int]


def private_counts(counts: Mapping[str, int], epsilon: float) -> PrivateCounts:
    """Add noise to these counts, and cut negative results to 0. Which segments there are must not depend on the users.

    Raises ConfigError if ε is out of range, or if OpenDP is not installed.
    """
    if not _EPSILON_MIN <= epsilon <= _EPSILON_MAX:
        raise ConfigError(
            f"epsilon is {epsilon:g}, expected {_EPSILON_MIN:g} to {_EPSILON_MAX:g}; set --epsilon, 1 is usual"
        )
    scale = _SENSITIVITY / epsilon
    laplace = _laplace(scale)
    noisy = laplace(list(counts.values()))
    return PrivateCounts(
        epsilon=float(laplace.map(_SENSITIVITY)),
        mechanism="discrete Laplace (opendp.measurements.make_laplace)",
        sensitivity=_SENSITIVITY,
        scale=scale,
        spread=_spread(scale),
        # The noisy counts could be published as they are, so cutting them costs no privacy.
        counts={name: max(0, count) for name, count in zip(counts, noisy, strict=True)},
    )


def _laplace(scale: float) -> Any:
    try:
        import opendp.prelude as dp
    except ImportError:
        raise ConfigError(
            "opendp is not installed, expected it for private counts; install 'valuestream[privacy]'"
        ) from None
    dp.enable_features("contrib")
    counts = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    return dp.m.make_laplace(*counts, scale=scale)


def _spread(scale: float) -> int:
    """Smallest k with P(|noise| > k) ≤ 5 %. With a = exp(-1/scale), P(|noise| > k) = 2 a^(k+1) / (1 + a).

    >>> _spread(1.0), _spread(10.0)
    (3, 30)
    """
    a = math.exp(-1 / scale)
    k = math.ceil(math.log(0.05 * (1 + a) / 2) / math.log(a) - 1) if a > 0 else 0
    return max(0, k)
