"""Page: the whole report, first for those who act on scores, then for those who answer for them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from model_export.evaluation.evaluation_folder import Evaluation
from model_export.report.answers import calibration, contact, headlines, value
from model_export.report.drift import drift
from model_export.report.markup import document, note, paragraph
from model_export.report.material import Material, read_material
from model_export.report.people import by_cohort, by_group, once
from model_export.report.tables import ablations, all_models, curves, errors_by_class, how_measured

__all__ = ["REPORT_FILE", "write_report"]

REPORT_FILE: Final = "report.html"


def write_report(folder: Path) -> Path:
    """Write report.html of an evaluation folder whole, and return its path; the same folder gives the same bytes.

    Raises ConfigError where the folder holds no complete evaluation.
    """
    path = folder / REPORT_FILE
    new = path.with_suffix(".new")
    new.write_text(_page(read_material(folder)), encoding="utf-8", newline="\n")
    new.replace(path)
    return path


def _page(material: Material) -> str:
    evaluation = material.evaluation
    return document(
        f"How good is {evaluation.settings.name}?",
        *_introduction(evaluation),
        headlines(material),
        contact(material),
        calibration(material),
        value(material),
        by_cohort(material),
        once(material),
        by_group(material),
        drift(material),
        all_models(evaluation),
        curves(material),
        errors_by_class(material),
        ablations(evaluation),
        how_measured(evaluation),
    )


def _introduction(evaluation: Evaluation) -> tuple[str, str]:
    labels, settings = evaluation.settings.labels, evaluation.settings
    n, days = sum(n for _, n in evaluation.snapshots), ", ".join(day for day, _ in evaluation.snapshots)
    rates = ", ".join(f"{head} {100 * rate:.1f} %" for head, rate in evaluation.base_rates.items())
    return (
        paragraph(
            f"Measured on {settings.data.name}: {n:,} examples of users who were active in the last "
            f"{labels.eligible_days:g} days before {days}. Every model was trained on the time before alone and saw "
            f"the same users. How often it happened: {rates}."
        ),
        note(
            "Plots show the newest snapshot (calibration: all of them) and the first seed, one model as it could be "
            "served; tables are means over snapshots and seeds. Brackets and bars are 95 % intervals."
        ),
    )
