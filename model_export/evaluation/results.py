"""Results: evaluates every recipe and writes docs/results.json and docs/results.md.

    python -m model_export.evaluation.results --data ../shared/data --out docs

An interrupted evaluation goes on where it stopped. A complete one is only measured again.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from model_export.data import event_log as history
from model_export.evaluation.churn_regret import churn_regret
from model_export.evaluation.evaluate import evaluate
from model_export.evaluation.evaluation_folder import Evaluation, MetricsTable, load_evaluation
from model_export.metrics.bootstrap import Interval
from model_export.report import summary, write_report
from model_export.settings import read_settings

__all__ = ["main"]

#: recipe → its file in the folder of real data; empty: the data is simulated.
DATASETS: Final = {
    "uci": "uci_online_retail.parquet",
    "cdnow": "cdnow_master.txt.gz",
    "tmall": "tmall2014_t_alibaba_data.csv.gz",
    "simulator": "",
}
_METRICS: Final = ("auc", "pr_auc", "log_loss", "ece", "gini", "decile_mape", "total_bias")
#: What the fused model must reach: (dataset, task, metric, least, most). It must also not be below LightGBM.
_BARS: Final = (
    ("cdnow", "churn", "ece", None, 0.03),
    ("cdnow", "purchase_90d", "ece", None, 0.03),
    ("tmall", "churn", "ece", None, 0.05),
    ("tmall", "purchase_7d", "ece", None, 0.05),
    ("tmall", "purchase_14d", "ece", None, 0.05),
    ("cdnow", "ltv", "gini", 0.77, None),
    ("uci", "ltv", "gini", 0.69, None),
    ("cdnow", "ltv", "total_bias", -0.2, 0.2),
)
_INTRO: Final = """# Results

Made by `make results` ({made}, {machine}, CPU only; not measured on GPU).
The same numbers are in [results.json](results.json) as
`dataset → task → model → metric → [low, value, high]`. Each evaluation also leaves a `report.html`
in `.valuestream/evaluations/<dataset>`.

How it was measured: every model is trained, calibrated and brought up to date in the same way, on
the same users, at three temporal snapshots. Each snapshot sees only what was known then. Models
that depend on a seed are trained with three seeds. Numbers are means over snapshots and seeds.
Intervals come from resampling users 300 times, with the same users for all models. ECE is of all
snapshots together; `ece_by_snapshot` in the report is the mean of each snapshot alone (with 800
users chance alone makes it about .04). Total bias and decile MAPE are of value after
recalibration. [Decision 0008](decisions/0008-fresh-labels-and-drift.md) says how models are
brought up to date, and what else was tried.

`recency`: days since the last event; `logistic`: logistic regression on all features; `lightgbm`:
boosted trees on all features; `bgnbd`: BG/NBD with Gamma-Gamma on orders; `event_bert`: the BERT
over events alone; `fused`: the model that is served; `lightgbm_bert`: boosted trees on features and
the BERT's embedding; `fused_…`: ablations, on one seed.
"""


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the real data files.")
@click.option("--work", default=".valuestream/evaluations", type=click.Path(path_type=Path), help="Evaluations.")
@click.option("--out", default="docs", type=click.Path(path_type=Path), help="Where the results are written.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(DATASETS)), help="Run these; show the others as last measured."
)
def main(data: Path, work: Path, out: Path, only: tuple[str, ...]) -> None:
    """Evaluate every recipe and write results.json and results.md."""
    console = Console()
    evaluations: dict[str, Evaluation] = {}
    regret: dict[str, Interval] = {}
    for name, file in DATASETS.items():
        if only and name not in only:
            evaluations[name] = load_evaluation(work / name)
            continue
        console.rule(name)
        recipe = resources.files("model_export") / "recipes" / f"{name}.toml"
        with resources.as_file(recipe) as path:
            settings = read_settings(path, [f"data.source={data / file}"] if file else [])
        evaluations[name] = evaluate(settings, work / name, console)
        write_report(work / name)
        if not file:
            regret = churn_regret(evaluations[name], work / name, history.load(settings.data))
    (out / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(_tree(evaluations)), indent=1) + b"\n")
    (out / "results.md").write_text(_page(evaluations, regret), encoding="utf-8")


def _tree(evaluations: dict[str, Evaluation]) -> dict[str, dict[str, MetricsTable]]:
    return {
        name: {
            task: {
                model: {metric: metrics[metric] for metric in _METRICS if metric in metrics}
                for model, metrics in table.items()
            }
            for task, table in evaluation.tasks.items()
        }
        for name, evaluation in evaluations.items()
    }


def _page(evaluations: dict[str, Evaluation], regret: dict[str, Interval]) -> str:
    made = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    parts = [_INTRO.format(made=made, machine=machine), _bars(evaluations)]
    for name, evaluation in evaluations.items():
        parts += [f"## {name}", summary(evaluation), _calibration(evaluation)]
        if regret and name == "simulator":
            parts.append(_regret(regret))
    return "\n".join(parts)


def _bars(evaluations: dict[str, Evaluation]) -> str:
    rows = ["## Bars", "", "| | fused | bar | |", "|---|---:|---:|---|"]
    for name, evaluation in evaluations.items():
        for task, models in evaluation.differences.items():
            if task != "ltv" and name != "simulator":
                low, value, high = models["lightgbm"]["auc"]
                verdict = _verdict(high is not None and high >= 0)
                rows.append(
                    f"| {name} {task}: AUC less LightGBM's | {_text(value)} [{_text(low)}, {_text(high)}] "
                    f"| interval reaches 0 | {verdict} |"
                )
    for name, task, metric, least, most in _BARS:
        if name in evaluations:
            low, value, high = evaluations[name].tasks[task]["fused"][metric]
            found = f"{_text(value)} [{_text(low)}, {_text(high)}]"
            passed = value is not None and (least is None or value >= least) and (most is None or value <= most)
            bar = " and ".join(
                [*([f"≥ {least:g}"] if least is not None else []), *([f"≤ {most:g}"] if most is not None else [])]
            )
            rows.append(f"| {name} {task}: {metric} | {found} | {bar} | {_verdict(passed)} |")
    return "\n".join(rows) + "\n"


def _calibration(evaluation: Evaluation) -> str:
    """ECE and total bias of the fused model before and after calibration."""
    rows = ["Calibration of `fused`, before and after:", "", "| | before | after |", "|---|---:|---:|"]
    for task, after in evaluation.tasks.items():
        metric = "total_bias" if task == "ltv" else "ece"
        before = evaluation.uncalibrated[task]["fused"][metric][1]
        rows.append(f"| {task} {metric} | {_text(before)} | {_text(after['fused'][metric][1])} |")
    return "\n".join(rows) + "\n"


def _regret(regret: dict[str, Interval]) -> str:
    rows = [
        "Regret of churn: mean log-loss less that of an oracle that knows the true hazard, in nats. The",
        "oracle knows each shopper's session rate and hazard. It does not know whether a silent shopper has",
        "left, nor how a shopper behaves who is about to leave. A model that sees the latter can be better",
        "than the oracle (`model_export/evaluation/churn_regret.py`).",
        "",
        "| model | regret |",
        "|---|---:|",
        *(f"| {model} | {_text(i.value)} [{_text(i.low)}, {_text(i.high)}] |" for model, i in regret.items()),
    ]
    return "\n".join(rows) + "\n"


def _text(number: float | None) -> str:
    return "–" if number is None else f"{number:.4f}"


def _verdict(passed: bool) -> str:
    return "reached" if passed else "**not reached**"


if __name__ == "__main__":
    main()
