"""Settings of tuning: values out of range are refused."""

from __future__ import annotations

from typing import Any

import pytest

from model_export.text.settings import TextFit
from stream.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"mode": "half"}, "mode is 'half'"), ({"epochs": 0}, "epochs is 0"), ({"dropout": 1}, "dropout is 1")],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextFit(**changes)
