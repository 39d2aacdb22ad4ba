"""Table sections: all models with intervals, errors by class, what the parts are worth, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from model_export.evaluation.evaluation_folder import Evaluation
from model_export.metrics.diagnostics import classification_report
from model_export.metrics.ranking import rank_predictions
from model_export.report.inputs import FUSED, VALUE, ReportInputs, best_f1_threshold
from model_export.report.markup import Markup, code, details, figure, grid, listing, note, paragraph, section, table
from model_export.report.plots import precision_recall_plot, roc_plot
from model_export.report.wording import metric_name, model_name, rows_of, task_titles, with_interval
from model_export.settings import as_toml

__all__ = ["ablations_section", "all_models_section", "curves_section", "errors_section", "how_measured_section"]

_MODELS: Final = {
    FUSED: "the network as it is served",
    "recency": "logistic regression on days since the last event",
    "logistic": "logistic regression on all features",
    "lightgbm": "boosted trees on all features",
    "bgnbd": "BG/NBD and Gamma-Gamma on the orders",
    "event_bert": "the network without the numeric features",
    "lightgbm_bert": "boosted trees on all features and the network's reading of the events",
}


def all_models_section(evaluation: Evaluation) -> Markup:
    """Every model and metric of every task."""
    titles = task_titles(evaluation.settings.labels)
    return section(
        "All models, all metrics",
        paragraph(
            "Means over seeds and snapshots (ECE: of all snapshots together) with 95 % intervals from resampling "
            "users, the same for all models. AUC, PR-AUC, Gini and Spearman: higher is better. Log-loss, Brier, ECE, "
            "decile MAPE, RMSE and the size of total bias: lower is better."
        ),
        *(_models_of(evaluation, task, titles[task]) for task in evaluation.tasks),
        note("; ".join(f"{m}: {_MODELS.get(m, model_name(m))}" for m in _models(evaluation)) + "."),
    )


def _models_of(evaluation: Evaluation, task: str, title: str) -> Markup:
    metrics = list(evaluation.tasks[task][FUSED])
    head = ["model", *(metric_name(metric) for metric in metrics)]
    rows = rows_of(evaluation, task, metrics)
    difference_rows = [
        [f"{FUSED} − {model}", *(with_interval(metric, differences[metric], difference=True) for metric in metrics)]
        for model, differences in evaluation.differences[task].items()
    ]
    paired = table("On the same resamples: an interval without 0 is a difference beyond chance.", head, difference_rows)
    return table(title, head, rows) + details(f"Differences to every model: {title}", paired)


def _models(evaluation: Evaluation) -> list[str]:
    return list(next(iter(evaluation.tasks.values()), {}))


def curves_section(inputs: ReportInputs) -> Markup:
    """ROC and precision-recall curves."""
    titles = task_titles(inputs.evaluation.settings.labels)
    figures = []
    for head in inputs.plotted_heads:
        ranked = inputs.curves(head)
        figures += [figure(roc_plot(titles[head], ranked), f"{head}: ROC")]
        figures += [figure(precision_recall_plot(titles[head], ranked), f"{head}: precision and recall")]
    return section("ROC and precision-recall", grid(*figures))


def errors_section(inputs: ReportInputs) -> Markup:
    """Precision, recall and F1 by class, at one half and at the threshold of best F1."""
    rows = [row for head in inputs.plotted_heads for row in _class_rows(inputs, head)]
    return section(
        "Classification report",
        paragraph(
            "Fused model, first seed, newest snapshot. The second threshold is the one with the best F1. It was found "
            "on these same users, so its numbers are a little too good."
        ),
        table("Class 1: it happened.", ["task", "threshold", "class", "precision", "recall", "F1", "support"], rows),
    )


def _class_rows(inputs: ReportInputs, head: str) -> Iterator[list[str]]:
    p, y = inputs.probability(head), inputs.actual(head)
    for threshold in (0.5, best_f1_threshold(rank_predictions(p, y))):
        for name, errors in classification_report(p, y, threshold).items():
            numbers = (f"{x:.3f}" for x in (errors.precision, errors.recall, errors.f1))
            yield [head, f"{threshold:.3f}", name, *numbers, f"{errors.support:,}"]


def ablations_section(evaluation: Evaluation) -> Markup:
    """What the parts of the network are worth: the fused model compared with its variants."""
    variants = [m for m in _models(evaluation) if m == "event_bert" or m.startswith(f"{FUSED}_")]
    rows = [[task, model, *_differences(evaluation, task, model)] for task in evaluation.tasks for model in variants]
    return (
        section(
            "What the parts are worth",
            paragraph(
                "The fused model less a variant of it. The fused model is better if AUC or Gini is above 0, or "
                "log-loss, ECE or RMSE below 0. event_bert is the model without numeric features."
            ),
            table("95 % intervals in brackets.", ["task", "variant", "AUC or Gini", "log-loss or RMSE", "ECE"], rows),
            note("Variants named fused_… are trained with the first seed only, fused with all seeds."),
        )
        if rows
        else Markup()
    )


def _differences(evaluation: Evaluation, task: str, model: str) -> list[str]:
    differences = evaluation.differences[task][model]
    metrics = ("gini", "rmse") if task == VALUE else ("auc", "log_loss", "ece")
    cells = [with_interval(metric, differences[metric], difference=True) for metric in metrics]
    return [*cells, *[""] * (3 - len(cells))]


def how_measured_section(evaluation: Evaluation) -> Markup:
    """Test snapshots, what was left out, the settings, and the commands that make the report again."""
    days = [[day, f"{n:,}"] for day, n in evaluation.snapshots]
    left_out = [[reason, f"{n:,}"] for reason, n in evaluation.left_out.items()]
    return section(
        "How this was measured",
        table("Test snapshots, newest first.", ["until", "examples"], days),
        table("Left out.", ["reason", "examples"], left_out),
        paragraph("Save the settings below as settings.toml, and put the path of the data in data.source:"),
        code("valuestream-model evaluate settings.toml --out FOLDER\nvaluestream-model report FOLDER"),
        details("Settings", listing(as_toml(evaluation.settings))),
    )
