"""Measure scores: turns the scores that an evaluation folder holds into metrics with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from model_export.data.labels import head_names
from model_export.evaluation.evaluation_folder import (
    Evaluation,
    MetricsTable,
    ScoredExamples,
    Scores,
    load_scored_examples,
    load_scores,
    rounded,
)  # fmt: skip
from model_export.metrics.bootstrap import Interval, Measured, TestSet, measure
from model_export.metrics.measures import Kind
from model_export.settings import Settings
from stream.arrays import Floats, Numbers
from stream.contract.columns import DAY_S
from stream.iso_time import iso_date

__all__ = ["measure_scores"]

#: Digits of the numbers in metrics.json.
_DIGITS: Final = 5
#: The model that all others are compared with.
_REFERENCE: Final = "fused"
#: model → test set → seed → scores
AllScores: TypeAlias = dict[str, list[list[Scores]]]


def measure_scores(
    settings: Settings, folder: Path, models: Sequence[str], *, groups: list[str], left_out: dict[str, int]
) -> Evaluation:
    """Measure the scores of ``models`` that the evaluation folder holds."""
    examples = load_scored_examples(folder)
    scores = {model: load_scores(folder, model) for model in models}
    heads = head_names(settings.labels)
    after, before = {}, {}
    for h, head in enumerate(heads):
        labels = [test_set.labels[:, h] for test_set in examples]
        after[head] = _measured(settings, examples, labels, scores, partial(_calibrated, h), kind="probability")
        before[head] = _measured(settings, examples, labels, scores, partial(_raw, h), kind="probability")
    values = [test_set.value for test_set in examples]
    if any(value.any() for value in values):
        after["ltv"] = _measured(settings, examples, values, scores, lambda s: s.value, kind="value")
        before["ltv"] = _measured(settings, examples, values, scores, lambda s: s.value_raw, kind="value")
    return Evaluation(
        settings=settings,
        currency=settings.data.money,
        snapshots=[(_day(test_set), len(test_set.user)) for test_set in examples],
        base_rates={head: float(np.mean([t.labels[:, h].mean() for t in examples])) for h, head in enumerate(heads)},
        tasks={task: _table(m.metrics) for task, m in after.items()},
        differences={task: _differences(m) for task, m in after.items()},
        uncalibrated={task: _table(m.metrics) for task, m in before.items()},
        groups=groups,
        left_out=left_out,
    )


def _calibrated(h: int, scores: Scores) -> Floats:
    return scores.p[:, h]


def _raw(h: int, scores: Scores) -> Floats:
    return scores.p_raw[:, h]


def _measured(
    settings: Settings,
    examples: Sequence[ScoredExamples],
    actual: Sequence[Numbers],
    scores: AllScores,
    column: Callable[[Scores], Floats],
    *,
    kind: Kind,
) -> Measured:
    """Metrics of one task: ``column`` takes its predictions from the scores, ``actual`` says what came true."""
    test_sets = [
        TestSet(
            test_set.user, outcomes, {model: [column(s) for s in of_model[k]] for model, of_model in scores.items()}
        )
        for k, (test_set, outcomes) in enumerate(zip(examples, actual, strict=True))
    ]
    return measure(test_sets, kind, settings.evaluate.resamples, settings.seed)


def _differences(measured: Measured) -> MetricsTable:
    """Every metric of the reference less that of each other model."""
    return _table(
        {
            model: {metric: measured.difference(_REFERENCE, model, metric) for metric in metrics}
            for model, metrics in measured.metrics.items()
            if model != _REFERENCE
        }
    )


def _table(intervals: dict[str, dict[str, Interval]]) -> MetricsTable:
    return {
        model: {metric: rounded(interval, _DIGITS) for metric, interval in metrics.items()}
        for model, metrics in intervals.items()
    }


def _day(test_set: ScoredExamples) -> str:
    return iso_date(int(test_set.as_of.max()) // DAY_S)
