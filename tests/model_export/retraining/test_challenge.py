"""Challenge: the improvement is that of the metrics, and chance alone promotes nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_export.retraining.challenge import Comparison, decide
from tests.model_export.retraining.conftest import Shop


def test_improvement_is_the_mean_difference_in_log_loss_over_the_heads(retrained: Shop) -> None:
    comparison = retrained.result.comparison
    assert comparison is not None
    old, new = (
        np.mean([head["log_loss"][1] for head in comparison.metrics[name].values()])
        for name in ("champion", "challenger")
    )
    assert comparison.improvement[1] == pytest.approx(old - new, abs=1e-5)


@pytest.mark.parametrize(
    ("improvement", "promoted", "why"),
    [
        ((0.01, 0.02, 0.03), True, "at least the margin"),
        ((0.01, 0.02, 0.03), True, "more than chance"),
        ((-0.01, 0.02, 0.05), False, "chance may explain it"),
        ((0.0001, 0.0002, 0.0003), False, "less than the margin"),
        ((-0.03, -0.02, -0.01), False, "less than the margin"),
        ((None, None, None), False, "cannot be measured"),
    ],
)
def test_promotion_needs_the_margin_and_an_interval_above_zero(improvement: Any, promoted: bool, why: str) -> None:
    found = decide(Comparison({}, improvement, 100, 50), 0.001)
    assert found[0] is promoted
    assert why in found[1]
