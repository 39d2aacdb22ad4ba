"""Challenge: measures champion and challenger on the same examples, and decides which of them serves."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from rich.table import Table

from model_export.data.examples import Examples
from model_export.data.labels import head_names
from model_export.evaluation.evaluation_folder import Estimate, rounded
from model_export.metrics.bootstrap import Measured, TestSet, measure
from model_export.metrics.measures import METRICS
from model_export.network.event_bert import EventBert
from model_export.retraining.registry import Champion
from model_export.run_folder import Run, predict
from model_export.training.calibration import predicted_probabilities
from stream.arrays import Probabilities

__all__ = ["Comparison", "compare", "comparison_table", "decide"]

_DIGITS: Final = 6


class Comparison(msgspec.Struct, frozen=True):
    """Champion and challenger on the same examples; 95 % intervals are from the same draws of users."""

    #: ``champion`` and ``challenger`` → head → metric.
    metrics: dict[str, dict[str, dict[str, Estimate]]]
    #: Fall of the mean log-loss of all probability heads, champion's less challenger's, in nats.
    improvement: Estimate
    examples: int
    users: int


def compare(champion: Champion, run: Run, network: EventBert, test: Examples) -> Comparison:
    """Measure the champion, and ``network`` with the calibration of its ``run``, on examples that neither has seen."""
    contenders = {"champion": (champion.run, champion.network), "challenger": (run, network)}
    probabilities = {name: _calibrated(*contender, test) for name, contender in contenders.items()}
    settings = run.settings
    by_head = [
        measure(
            [TestSet(test.user, labels, {name: [p[:, h]] for name, p in probabilities.items()})],
            "probability",
            settings.evaluate.resamples,
            settings.seed,
        )
        for h, labels in enumerate(test.outcomes.T)
    ]
    # All heads were measured on the same draws of users, so their mean can be taken draw by draw.
    mean_of_heads = Measured(
        {
            name: {"log_loss": np.mean([measured.draws[name]["log_loss"] for measured in by_head], axis=0)}
            for name in contenders
        }
    )
    return Comparison(
        metrics={name: _metrics(name, head_names(settings.labels), by_head) for name in contenders},
        improvement=rounded(mean_of_heads.difference("champion", "challenger", "log_loss"), _DIGITS),
        examples=len(test),
        users=len(np.unique(test.user)),
    )


def _calibrated(run: Run, network: EventBert, test: Examples) -> Probabilities:
    """Calibrated probabilities ``(n, heads)`` of the test examples."""
    raw = predict(network, test.tokens, test.features)
    return predicted_probabilities(raw, test, run.calibration, run.settings.export.sufficient_events)


def _metrics(name: str, heads: list[str], by_head: list[Measured]) -> dict[str, dict[str, Estimate]]:
    """``head → metric`` of one of the two models."""
    return {
        head: {metric: rounded(measured.metrics[name][metric], _DIGITS) for metric in METRICS["probability"]}
        for head, measured in zip(heads, by_head, strict=True)
    }


def decide(comparison: Comparison | None, margin: float) -> tuple[bool, str]:
    """Decide whether to promote the challenger, and say why.

    It must be better by at least the margin, and by more than the draw of users explains.
    """
    if comparison is None:
        return True, "there was no champion to beat"
    low, value, high = comparison.improvement
    if low is None or value is None:
        return False, "the difference cannot be measured on this test split"
    measured = f"mean log-loss falls by {value:.5f} [{low:.5f}, {high:.5f}]"
    if value < margin:
        return False, f"{measured}, less than the margin of {margin:g}"
    if low <= 0:
        return False, f"{measured}: the margin of {margin:g} is met, but chance may explain it"
    return True, f"{measured}, at least the margin of {margin:g} and more than chance explains"


def comparison_table(comparison: Comparison) -> Table:
    """Both models side by side, a row for each head and metric."""
    table = Table("test split", "champion", "challenger", title="lower is better for log_loss, brier, ece")
    old, new = (comparison.metrics[name] for name in ("champion", "challenger"))
    for head, metrics in old.items():
        for metric, bounds in metrics.items():
            table.add_row(f"{head} {metric}", _shown(bounds), _shown(new[head][metric]))
    return table


def _shown(bounds: Estimate) -> str:
    low, value, high = ("–" if x is None else f"{x:.4f}" for x in bounds)
    return f"{value} [{low}, {high}]"
