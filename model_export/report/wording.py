"""Wording: names, numbers and verdicts as people read them, and the summary of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from model_export.data.labels import head_names
from model_export.evaluation.evaluation_folder import Estimate, Evaluation
from model_export.report.inputs import FUSED, VALUE
from stream.contract.manifest import Labels

__all__ = [
    "RIVAL", "compared", "main_metric", "metric_name", "model_name", "number", "percent", "rows_of", "signed",
    "summary", "task_titles", "verdict_of", "with_interval",
]  # fmt: skip

#: The baseline that the model must not be worse than.
RIVAL: Final = "lightgbm"
_METRIC_NAMES: Final = {
    "auc": "AUC", "pr_auc": "PR-AUC", "log_loss": "log-loss", "brier": "Brier", "ece": "ECE", "gini": "Gini",
    "spearman": "Spearman", "decile_mape": "decile MAPE", "total_bias": "total bias", "rmse": "RMSE",
    "ece_by_snapshot": "ECE by snapshot",
}  # fmt: skip
_MODEL_NAMES: Final = {
    FUSED: "fused (the model)", "lightgbm": "LightGBM", "logistic": "logistic regression", "recency": "recency alone",
    "bgnbd": "BG/NBD", "event_bert": "event BERT alone", "lightgbm_bert": "LightGBM + BERT embedding",
}  # fmt: skip
_LOWER_IS_BETTER: Final = frozenset({"log_loss", "brier", "ece", "ece_by_snapshot", "decile_mape", "rmse"})
#: Metrics that the summary shows, as far as a task has them.
_SUMMARY: Final = ("auc", "pr_auc", "log_loss", "ece", "gini", "decile_mape", "total_bias")
_UNKNOWN: Final = "–"


def task_titles(labels: Labels) -> dict[str, str]:
    """What each task asks, in words.

    >>> task_titles(Labels(45, 14, (7, 30), 30))["purchase_7d"]
    'Purchase within 7 days'
    """
    questions = [f"Churn: no event within {labels.churn_days:g} days"]
    questions += [f"Purchase within {days:g} days" for days in labels.purchase_days]
    value = f"Net value of the next {labels.value_days:g} days"
    return {**dict(zip(head_names(labels), questions, strict=True)), VALUE: value}


def main_metric(task: str) -> str:
    """The metric by which a task's models are compared first: how well they rank."""
    return "gini" if task == VALUE else "auc"


def model_name(model: str) -> str:
    """A model's name for people; ablations say what was changed.

    >>> model_name("fused_without_time")
    'fused without time'
    """
    return _MODEL_NAMES.get(model, model.replace("_", " "))


def metric_name(metric: str) -> str:
    """A metric's name for people."""
    return _METRIC_NAMES.get(metric, metric.replace("_", " "))


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f} %"


def number(metric: str, value: float | None) -> str:
    """One metric's value."""
    if value is None:
        return _UNKNOWN
    if metric == "total_bias":
        return f"{100 * value:+.1f} %"
    return f"{value:,.2f}" if metric == "rmse" else f"{value:.3f}"


def signed(metric: str, value: float | None) -> str:
    """A difference of one metric's values."""
    if value is None:
        return _UNKNOWN
    return f"{value:+,.2f}" if metric == "rmse" else f"{value:+.3f}"


def with_interval(metric: str, bounds: Estimate, difference: bool = False) -> str:
    """A value and its 95 % interval.

    >>> with_interval("auc", (0.81, 0.824, 0.84))
    '0.824 [0.810, 0.840]'
    """
    show = signed if difference and metric != "total_bias" else number
    low, value, high = (show(metric, bound) for bound in bounds)
    return f"{value} [{low}, {high}]" if bounds[0] is not None and bounds[2] is not None else value


def verdict_of(metric: str, difference: Estimate) -> str:
    """Whether a difference to another model makes ours better, worse, not worse, or whether that is not known.

    >>> verdict_of("auc", (-0.03, -0.02, -0.01)), verdict_of("log_loss", (-0.03, -0.02, -0.01))
    ('worse', 'better')
    """
    low, _, high = difference
    if low is None or high is None:
        return "not known"
    if metric in _LOWER_IS_BETTER:
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "not worse"


def compared(metric: str, difference: Estimate, other: str) -> str:
    """A difference to ``other`` in words.

    >>> compared("auc", (-0.03, -0.02, -0.01), "LightGBM")
    'worse than LightGBM by 0.020 AUC [0.010, 0.030]'
    """
    word, name = verdict_of(metric, difference), metric_name(metric)
    low, value, high = difference
    if low is None or value is None or high is None:
        return f"not compared with {other}: {name} is not defined on this data"
    if word == "not worse":
        return f"not worse than {other} within the interval: {name} {with_interval(metric, difference, True)}"
    near, far = sorted((abs(low), abs(high)))
    return f"{word} than {other} by {number(metric, abs(value))} {name} [{number(metric, near)}, {number(metric, far)}]"


def summary(evaluation: Evaluation) -> str:
    """Markdown: per task a table of models with 95 % intervals, and the fused model's differences to LightGBM."""
    titles = task_titles(evaluation.settings.labels)
    of_snapshots = ", ".join(f"{day} ({n:,} examples)" for day, n in evaluation.snapshots)
    parts = [f"Test snapshots: {of_snapshots}. Means over snapshots and seeds; in brackets 95 % intervals."]
    for task, table in evaluation.tasks.items():
        metrics = [metric for metric in _SUMMARY if metric in next(iter(table.values()))]
        base = f"; base rate {percent(evaluation.base_rates[task])}" if task in evaluation.base_rates else ""
        head = ["model", *(metric_name(metric) for metric in metrics)]
        rows = [head, ["---", *("---:" for _ in metrics)], *rows_of(evaluation, task, metrics)]
        parts.append(f"### {titles[task]} (`{task}`{base})")
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts) + "\n"


def rows_of(evaluation: Evaluation, task: str, metrics: Sequence[str]) -> list[list[str]]:
    """Rows of a task's table: each model's metrics with intervals, then the fused model less LightGBM."""
    table = evaluation.tasks[task]
    rows = [
        [model, *(with_interval(metric, of_model[metric]) for metric in metrics)] for model, of_model in table.items()
    ]
    if difference := evaluation.differences[task].get(RIVAL):
        cells = [with_interval(metric, difference[metric], True) for metric in metrics]
        rows.append([f"{FUSED} − {RIVAL}", *cells])
    return rows
