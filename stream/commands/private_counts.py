"""Private counts: how many users are in each segment, with noise by which nobody can tell whether one of them is there.

ε-differential privacy (Dwork et al. 2006) by the discrete Laplace mechanism, as OpenDP samples it: exactly, without the
floating-point leaks of Mironov (2012). Neighbours are two sets of users of which one has one user more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from stream.errors import ConfigError

__all__ = ["PrivateCounts", "private_counts"]

#: A user is in one segment, so one user more or less changes one count by one: the L1 distance of the counts.
_SENSITIVITY: Final = 1
#: Below, the noise is larger than a million users; above, there is none to speak of.
_EPSILON_MIN, _EPSILON_MAX = 1e-6, 20.0


class PrivateCounts(msgspec.Struct, frozen=True):
    """Noisy counts and what they promise. ``spread`` is the noise that 95 % of counts stay within."""

    epsilon: float
    mechanism: str
    sensitivity: int
    scale: float
    spread: int
    counts: dict[str, int]


def private_counts(counts: Mapping[str, int], epsilon: float) -> PrivateCounts:
    """These counts with noise, below none cut to 0; the segments must not depend on the users.

    Raises ConfigError for an ε without meaning, and where OpenDP is not installed.
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
        # Cutting is done with what was already released, so it costs no privacy.
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
    """Smallest k with P(|noise| > k) ≤ 5 %, of P(|noise| > k) = 2 a^(k+1) / (1 + a) with a = exp(-1/scale).

    >>> _spread(1.0), _spread(10.0)
    (3, 30)
    """
    a = math.exp(-1 / scale)
    k = math.ceil(math.log(0.05 * (1 + a) / 2) / math.log(a) - 1) if a > 0 else 0
    return max(0, k)
