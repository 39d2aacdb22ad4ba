"""What one event, score or user costs a worker: the measured figures that ``valuestream plan`` reckons with.

They come with the package, in ``unit_costs.json``, each with where, when and by which command it was measured;
``python -m tests.bench.unit_costs`` writes that file anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import msgspec

from stream.errors import ContractError

__all__ = ["COSTS_FILE", "COST_NAMES", "Costs", "Figure", "costs_of", "read_figures"]

COSTS_FILE: Final = Path(__file__).parent / "unit_costs.json"


class Figure(msgspec.Struct, frozen=True):
    """One measured figure; ``value`` is None while nobody has measured it, and ``command`` is what would."""

    value: float | None
    unit: str
    source: str
    command: str
    measured: str = ""
    hardware: str = ""


@dataclass(frozen=True, slots=True)
class Costs:
    """The figures as numbers. One that was not measured is NaN, and so is all that is reckoned from it."""

    #: Seconds of one core: to take in an event, and to make a changed user durable.
    event_s: float
    value_s: float
    #: Seconds of one core for a score: around the model, and in it; and seconds of a GPU.
    score_s: float
    inference_s: float
    gpu_s: float
    #: Memory: of a worker without users, of a user, and of the buckets of one whose history is full.
    worker_bytes: float
    user_bytes: float
    buckets_bytes: float
    #: A changelog value: of a user without events, for each event of the history, and for buckets.
    value_bytes: float
    value_event_bytes: float
    value_buckets_bytes: float
    score_bytes: float
    #: Seconds to read one user back from the local disk, and from the changelog.
    disk_recovery_s: float
    changelog_recovery_s: float


COST_NAMES: Final = frozenset(field.name for field in fields(Costs))


def read_figures(path: Path = COSTS_FILE) -> dict[str, Figure]:
    """The figures by name. ContractError where the file is not one of them."""
    try:
        figures = msgspec.json.decode(path.read_bytes(), type=dict[str, Figure])
    except (OSError, msgspec.MsgspecError) as error:
        raise ContractError(
            f"unit costs in {path.name} cannot be read: {error}; install the package again, or from a checkout write"
            " them with `python -m tests.bench.unit_costs`"
        ) from None
    if figures.keys() != COST_NAMES:
        odd = ", ".join(sorted(figures.keys() ^ COST_NAMES))
        raise ContractError(
            f"unit costs in {path.name} differ from what this build reckons with in {odd}; write them anew with"
            " `python -m tests.bench.unit_costs`"
        )
    return figures


def costs_of(figures: dict[str, Figure]) -> Costs:
    """The numbers of these figures."""
    return Costs(**{name: math.nan if f.value is None else f.value for name, f in figures.items()})
