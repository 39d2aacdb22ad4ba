"""Challenge: champion and challenger measured on the same examples, and whether one takes the other's place."""

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
    p = {
        name: predicted_probabilities(
            predict(net, test.tokens, test.features), test, of.calibration, of.settings.export.sufficient_events
        )
        for name, (of, net) in contenders.items()
    }
    settings, outcomes = run.settings, test.outcomes.T
    measured = [
        measure(
            [TestSet(test.user, y, {name: [of[:, h]] for name, of in p.items()})],
            "probability",
            settings.evaluate.resamples,
            settings.seed,
        )
        for h, y in enumerate(outcomes)
    ]
    # All heads were measured on the same draws of users, so their mean can be taken draw by draw.
    joint = {name: {"log_loss": np.mean([m.draws[name]["log_loss"] for m in measured], axis=0)} for name in p}
    heads = head_names(settings.labels)
    of_head = [m.metrics for m in measured]
    return Comparison(
        metrics={
            name: {
                head: {metric: rounded(of[name][metric], _DIGITS) for metric in METRICS["probability"]}
                for head, of in zip(heads, of_head, strict=True)
            }
            for name in p
        },
        improvement=rounded(Measured(joint).difference("champion", "challenger", "log_loss"), _DIGITS),
        examples=len(test),
        users=len(np.unique(test.user)),
    )


def decide(comparison: Comparison | None, margin: float) -> tuple[bool, str]:
    """Whether to promote, and why: better by the margin at least, and by more than the draw of users explains."""
    if comparison is None:
        return True, "there was no champion to beat"
    low, value, high = comparison.improvement
    if low is None or value is None:
        return False, "the difference cannot be measured on this test window"
    found = f"mean log-loss falls by {value:.5f} [{low:.5f}, {high:.5f}]"
    if value < margin:
        return False, f"{found}, less than the margin of {margin:g}"
    if low <= 0:
        return False, f"{found}: the margin of {margin:g} is met, but chance may explain it"
    return True, f"{found}, at least the margin of {margin:g} and more than chance explains"


def comparison_table(comparison: Comparison) -> Table:
    """Both models side by side, a row for each head and metric."""
    table = Table("test window", "champion", "challenger", title="lower is better for log_loss, brier, ece")
    old, new = (comparison.metrics[name] for name in ("champion", "challenger"))
    for head, metrics in old.items():
        for metric, bounds in metrics.items():
            table.add_row(f"{head} {metric}", _shown(bounds), _shown(new[head][metric]))
    return table


def _shown(bounds: Estimate) -> str:
    low, value, high = ("–" if x is None else f"{x:.4f}" for x in bounds)
    return f"{value} [{low}, {high}]"
