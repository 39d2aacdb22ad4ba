"""Page: puts the sections in order, first for readers who act on scores, then for those who answer for them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from model_export.evaluation.evaluation_folder import Evaluation
from model_export.report.answers import calibration_section, contact_section, headlines_section, value_section
from model_export.report.drift import drift_section
from model_export.report.inputs import ReportInputs, read_report_inputs
from model_export.report.markup import Markup, document, note, paragraph
from model_export.report.people import cohorts_section, groups_section, one_time_buyers_section
from model_export.report.tables import (
    ablations_section,
    all_models_section,
    curves_section,
    errors_section,
    how_measured_section,
)

__all__ = ["REPORT_FILE", "write_report"]

REPORT_FILE: Final = "report.html"


def write_report(folder: Path) -> Path:
    """Write report.html of an evaluation folder in one step, and return its path.

    The same folder gives the same bytes. Raises ConfigError if the folder holds no complete evaluation.
    """
    path = folder / REPORT_FILE
    new = path.with_suffix(".new")
    new.write_text(_page(read_report_inputs(folder)), encoding="utf-8", newline="\n")
    new.replace(path)
    return path


def _page(inputs: ReportInputs) -> str:
    evaluation = inputs.evaluation
    return document(
        f"How good is {evaluation.settings.name}?",
        *_introduction(evaluation),
        headlines_section(inputs),
        contact_section(inputs),
        calibration_section(inputs),
        value_section(inputs),
        cohorts_section(inputs),
        one_time_buyers_section(inputs),
        groups_section(inputs),
        drift_section(inputs),
        all_models_section(evaluation),
        curves_section(inputs),
        errors_section(inputs),
        ablations_section(evaluation),
        how_measured_section(evaluation),
    )


def _introduction(evaluation: Evaluation) -> tuple[Markup, Markup]:
    labels, settings = evaluation.settings.labels, evaluation.settings
    n, days = sum(n for _, n in evaluation.snapshots), ", ".join(day for day, _ in evaluation.snapshots)
    rates = ", ".join(f"{head} {100 * rate:.1f} %" for head, rate in evaluation.base_rates.items())
    return (
        paragraph(
            f"Measured on {settings.data.name}: {n:,} examples of users who were active in the last "
            f"{labels.eligible_days:g} days before {days}. Every model was trained only on the time before, and "
            f"scored the same users. How often it happened: {rates}."
        ),
        note(
            "Plots show the newest snapshot (calibration: all snapshots) and the first seed: one model as it could be "
            "served. Tables show means over snapshots and seeds. Brackets and bars are 95 % intervals."
        ),
    )
