"""What one event, score or user costs a worker: the measured unit costs that ``valuestream plan`` computes with.

The package holds them in ``unit_costs.json``. Each says where, when and by which command it was measured.
``python -m tests.bench.unit_costs`` writes that file anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import msgspec

from stream.errors import ContractError

__all__ = ["COSTS_FILE", "COST_NAMES", "Costs", "UnitCost", "costs_of", "read_unit_costs"]

COSTS_FILE: Final = Path(__file__).parent / "unit_costs.json"


class UnitCost(msgspec.Struct, frozen=True):
    """One unit cost, and how it was measured. ``value`` is None until somebody runs ``command``, which measures it."""

    value: float | None
    unit: str
    source: str
    command: str
    measured: str = ""
    hardware: str = ""


@dataclass(frozen=True, slots=True)
class Costs:
    """The unit costs as numbers. One that was not measured is NaN, and so is everything that is computed from it."""

    #: Seconds of one core to take in an event, and to make a changed user durable.
    event_s: float
    value_s: float
    #: Seconds for a score: of one core around the model, of one core in the model, or of a GPU in the model.
    score_s: float
    inference_s: float
    gpu_s: float
    #: Memory of a worker without users, of a user, and of the buckets of a user with a full history.
    worker_bytes: float
    user_bytes: float
    buckets_bytes: float
    #: Size of a changelog value: for a user without events, for each event of the history, and for buckets.
    value_bytes: float
    value_event_bytes: float
    value_buckets_bytes: float
    score_bytes: float
    #: Seconds to read one user back from the local disk, and from the changelog.
    disk_recovery_s: float
    changelog_recovery_s: float


COST_NAMES: Final = frozenset(field.name for field in fields(Costs))


def read_unit_costs(path: Path = COSTS_FILE) -> dict[str, UnitCost]:
    """The unit costs by name. Raises ContractError if the file is damaged, or has others than this build needs."""
    try:
        unit_costs = msgspec.json.decode(path.read_bytes(), type=dict[str, UnitCost])
    except (OSError, msgspec.MsgspecError) as error:
        raise ContractError(
            f"unit costs in {path.name} cannot be read: {error}; install the package again, or from a checkout write"
            " them with `python -m tests.bench.unit_costs`"
        ) from None
    if unit_costs.keys() != COST_NAMES:
        differing = ", ".join(sorted(unit_costs.keys() ^ COST_NAMES))
        raise ContractError(
            f"unit costs in {path.name} differ from what this build reckons with in {differing}; write them anew with"
            " `python -m tests.bench.unit_costs`"
        )
    return unit_costs


def costs_of(unit_costs: dict[str, UnitCost]) -> Costs:
    """The values of these unit costs."""
    return Costs(**{name: math.nan if cost.value is None else cost.value for name, cost in unit_costs.items()})
