"""Answer sections: whether to act on the model, whom to contact, whether to believe a probability, and value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from model_export.evaluation.evaluation_folder import Evaluation
from model_export.metrics.diagnostics import lift_and_gain, reliability
from model_export.metrics.ranking import rank_predictions
from model_export.report.inputs import FUSED, VALUE, ReportInputs
from model_export.report.markup import Markup, details, figure, grid, note, paragraph, section, table, verdict
from model_export.report.plots import gain_plot, reliability_plot, value_plot
from model_export.report.shares import Shares
from model_export.report.wording import (
    RIVAL,
    compared,
    main_metric,
    metric_name,
    model_name,
    number,
    percent,
    task_titles,
    verdict_of,
    with_interval,
)  # fmt: skip
from stream.arrays import Floats

__all__ = ["calibration_section", "contact_section", "headlines_section", "value_section"]

_VALUE_METRICS: Final = ("gini", "spearman", "decile_mape", "total_bias", "rmse")


def headlines_section(inputs: ReportInputs) -> Markup:
    """A verdict for each task, and what it means."""
    evaluation = inputs.evaluation
    titles = task_titles(evaluation.settings.labels)
    return section("In short", *(_headline(inputs, task, titles[task]) for task in evaluation.tasks))


def _headline(inputs: ReportInputs, task: str, title: str) -> Markup:
    evaluation, metric = inputs.evaluation, main_metric(task)
    rival = evaluation.differences[task].get(RIVAL)
    word = verdict_of(metric, rival[metric]) if rival else "not compared"
    measured = with_interval(metric, evaluation.tasks[task][FUSED][metric])
    ranks = f"It ranks users {compared(metric, rival[metric], model_name(RIVAL))}. " if rival else ""
    sentences = [f"{ranks}Its {metric_name(metric)} is {measured}.", _believable(evaluation, task)]
    if task in inputs.heads:
        sentences.append(_found_by_contacting(inputs, task))
    return verdict(title, word, [*sentences, *_beaten_by(evaluation, task)])


def _believable(evaluation: Evaluation, task: str) -> str:
    """How far the numbers are off, before and after calibration."""
    after, before = evaluation.tasks[task][FUSED], evaluation.uncalibrated[task][FUSED]
    if task == VALUE:
        bias = with_interval("total_bias", after["total_bias"])
        return f"The sum over all users is off by {bias}; {number('total_bias', before['total_bias'][1])} before."
    rival = evaluation.differences[task].get(RIVAL)
    beside = f" In this it is {compared('ece', rival['ece'], model_name(RIVAL))}." if rival else ""
    return (
        f"Its probabilities are off by {with_interval('ece', after['ece'])} on average (ECE; "
        f"{number('ece', before['ece'][1])} before calibration).{beside}"
    )


def _found_by_contacting(inputs: ReportInputs, head: str) -> str:
    tenths = lift_and_gain(inputs.probability(head), inputs.actual(head))
    if not tenths:
        return "Nobody did so at the newest snapshot."
    first, third, does = tenths[0], tenths[2], "leave" if head == "churn" else "buy"
    return (
        f"The tenth of users ranked highest holds {percent(first.gain)} of those who {does}, {first.lift:.1f} times "
        f"their share among all; the first three tenths hold {percent(third.gain)}."
    )


def _beaten_by(evaluation: Evaluation, task: str) -> Iterator[str]:
    """Sentences on the other models that rank better beyond the interval; variants of our own model do not count."""
    metric = main_metric(task)
    for model, differences in evaluation.differences[task].items():
        difference = differences[metric]
        if not model.startswith(FUSED) and model != RIVAL and verdict_of(metric, difference) == "worse":
            yield f"It also ranks users {compared(metric, difference, model_name(model))}."


def contact_section(inputs: ReportInputs) -> Markup:
    """Cumulative gain and lift by tenth."""
    titles = task_titles(inputs.evaluation.settings.labels)
    heads = inputs.plotted_heads
    tenths = {head: lift_and_gain(inputs.probability(head), inputs.actual(head)) for head in heads}
    rows = [
        [
            f"{i + 1}",
            *(cell for head in heads for cell in (f"{tenths[head][i].lift:.2f}", percent(tenths[head][i].gain))),
        ]
        for i in range(10)
    ]
    columns = ["tenth", *(f"{head} {what}" for head in heads for what in ("lift", "gain"))]
    return section(
        "Whom to contact",
        paragraph(
            "Users are in the order of the model, most likely first. Gain: how many of all users who do it are among "
            "those contacted so far. Lift: their share in a tenth over their share among all users; chance gives 1."
        ),
        grid(*(figure(gain_plot(titles[head], inputs.curves(head)), head) for head in heads)),
        details("Lift and gain by tenth", table("Tenths of users, highest predictions first.", columns, rows)),
    )


def calibration_section(inputs: ReportInputs) -> Markup:
    """Reliability diagrams before and after calibration."""
    titles = task_titles(inputs.evaluation.settings.labels)
    figures = [_reliability(inputs, head, titles[head]) for head in inputs.plotted_heads]
    return section(
        "Can a probability be believed?",
        paragraph(
            "Users of all snapshots are split by probability into ten sets of equal size. Of users with 30 %, 30 % "
            "should do it: points on the diagonal are right. Bars are 95 % intervals of what came true."
        ),
        grid(*figures),
    )


def _reliability(inputs: ReportInputs, head: str, title: str) -> Markup:
    raw, calibrated, actual = inputs.all_snapshots(head)
    names = ("predicted", "observed", "n")
    before, after = (
        [np.array([getattr(tenth, name) for tenth in reliability(p, actual)]) for name in names]
        for p in (raw, calibrated)
    )
    ece = inputs.evaluation.tasks[head][FUSED]["ece"]
    ece_before = inputs.evaluation.uncalibrated[head][FUSED]["ece"]
    shares = Shares.with_intervals([str(i) for i in range(1, len(after[0]) + 1)], after[2], after[0], after[1])
    return figure(
        reliability_plot(title, (before[0], before[1]), shares),
        f"{head}: ECE {number('ece', ece_before[1])} before, {with_interval('ece', ece)} after calibration "
        "(mean over seeds).",
    )


def value_section(inputs: ReportInputs) -> Markup:
    """Predicted and actual value by tenth, and how good the sum and the order are."""
    evaluation = inputs.evaluation
    if VALUE not in evaluation.tasks:
        return Markup()
    actual, scores = inputs.newest.value, inputs.plotted_scores()
    per_tenth = len(actual) / 10
    after, mean_actual = (sums / per_tenth for sums in rank_predictions(scores.value, actual).by_decile())
    before = rank_predictions(scores.value_raw, actual).by_decile()[0] / per_tenth
    title = task_titles(evaluation.settings.labels)[VALUE]
    return section(
        "What users are worth",
        grid(
            figure(
                value_plot(title, evaluation.currency, actual=mean_actual, after=after, before=before),
                f"Mean per user in {evaluation.currency}; the sum over all users is "
                f"{number('total_bias', evaluation.uncalibrated[VALUE][FUSED]['total_bias'][1])} off before and "
                f"{number('total_bias', evaluation.tasks[VALUE][FUSED]['total_bias'][1])} after recalibration.",
            ),
            _tenths_of_value(evaluation.currency, mean_actual, after, before),
        ),
        _value_before_and_after(evaluation),
    )


def _tenths_of_value(currency: str, actual: Floats, after: Floats, before: Floats) -> Markup:
    rows = [
        [f"{tenth + 1}", *(f"{mean[tenth]:,.2f}" for mean in (actual, after, before))]
        for tenth in range(len(actual))[::-1]
    ]
    caption = f"Mean value of a user in {currency}; tenth 10 is predicted to be worth most."
    return table(caption, ["tenth", "actual", "predicted", "before recalibration"], rows)


def _value_before_and_after(evaluation: Evaluation) -> Markup:
    rows = [
        [model, when, *(with_interval(metric, table_of[model][metric]) for metric in _VALUE_METRICS)]
        for model in evaluation.tasks[VALUE]
        for when, table_of in (("before", evaluation.uncalibrated[VALUE]), ("after", evaluation.tasks[VALUE]))
    ]
    return details(
        "All models before and after recalibration",
        table("95 % intervals in brackets.", ["model", "", *(metric_name(m) for m in _VALUE_METRICS)], rows),
        note("Recalibration multiplies all values by one factor, which is found on the split before the test."),
    )
