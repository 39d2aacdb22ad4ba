"""Settings of a training, from flags to the typed parts that each stage reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from model_export.dataset import Plan
from model_export.history import SIMULATOR, DataConfig
from model_export.model import ModelConfig
from model_export.run import FitConfig
from stream.contract.manifest import Labels
from stream.errors import ConfigError

__all__ = ["Settings", "settings"]

_LABELS = ("eligible_days", "churn_days", "purchase_days", "value_days")
_HEADS = 4


class Settings(msgspec.Struct, frozen=True):
    """All that a training is told."""

    data: DataConfig
    plan: Plan
    model: ModelConfig
    fit: FitConfig


def settings(*, data: str, seed: int, **flags: Any) -> Settings:
    """Sort flags into parts; raises ConfigError for those that do not go together."""
    if data != SIMULATOR and not Path(data).is_file():
        raise ConfigError(f"data is {data!r}, which is no file; give a file of events, or `simulator`")
    labels = Labels(**{name: flags[name] for name in _LABELS})
    if labels.value_days not in labels.purchase_days:
        raise ConfigError(
            f"--value-days is {labels.value_days:g}, expected one of --purchase-days "
            f"({','.join(f'{d:g}' for d in labels.purchase_days)}): its probability is that of any value at all"
        )
    if flags["hidden"] % _HEADS:
        raise ConfigError(f"--hidden is {flags['hidden']}, expected a multiple of {_HEADS}, the number of heads")
    return Settings(
        DataConfig(source=data, seed=seed, **_of(DataConfig, flags)),
        Plan(labels, seed=seed, **_of(Plan, flags)),
        ModelConfig(
            heads=_HEADS,
            intermediate=2 * flags["hidden"],
            purchase_heads=len(labels.purchase_days),
            **_of(ModelConfig, flags),
        ),
        FitConfig(seed=seed, **_of(FitConfig, flags)),
    )


def _of(part: type[msgspec.Struct], flags: dict[str, Any]) -> dict[str, Any]:
    return {name: flags[name] for name in part.__struct_fields__ if name in flags}
