"""Command line of ``valuestream-model``. An error of ours is shown as one clear line.

Torch and other modules that are slow to import are imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from model_export.bench.cli import bench
from model_export.extras import needs_training_extra
from model_export.text.cli import sentiment
from stream.errors import ValuestreamError

__all__ = ["main"]

COUNT = click.IntRange(min=1)
FOLDER = click.Path(path_type=Path)
Command = Callable[..., Any]
_VARIANTS: Final = ("fp32", "int8", "fp16")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="valuestream")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def cli(debug: bool) -> None:
    """Make the models that `valuestream worker` serves, and measure what they are worth.

    \b
    A settings file names the data and what to predict; every key has a default:
      name = "shop"
      [data]
      source = "events.jsonl.gz"        # one JSON object a line, as you send them to Kafka
      [labels]
      churn_days = 14                   # churn: no event at all within these days
      purchase_days = [7, 30]           # purchase: an order within these days

    \b
      valuestream-model config > shop.toml                      # all keys, with their defaults
      valuestream-model train shop.toml --out runs/shop
      valuestream-model export runs/shop --out models/shop
      valuestream-model verify models/shop --run runs/shop
      valuestream worker --model-dir models/shop

    \b
    Before you act on scores, measure them beside six baselines on the same users:
      valuestream-model evaluate shop.toml --out evaluations/shop
      valuestream-model report evaluations/shop                 # report.html

    \b
    Keep a model fresh: from time to time compare it with a challenger on the newest labels.
      valuestream-model retrain shop.toml --models champions/shop
      valuestream worker --model-dir champions/shop/current

    Without a settings file all commands work on simulated shoppers.
    """


cli.add_command(sentiment)
cli.add_command(bench)


def _settings(command: Command) -> Command:
    """Add the argument and the option that :func:`read_settings` takes."""
    for decorate in reversed((
        click.argument("settings", required=False, type=FOLDER),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in fit.epochs=5; repeatable."),
    )):  # fmt: skip
        command = decorate(command)
    return command


@cli.command(short_help="Print the settings file with every key.")
@_settings
def config(settings: Path | None, overrides: tuple[str, ...]) -> None:
    """Print all settings as TOML: those of SETTINGS, and the defaults of keys that it leaves out."""
    with needs_training_extra():
        from model_export.settings import as_toml, read_settings

    click.echo(as_toml(read_settings(settings, overrides)), nl=False)


@cli.command(short_help="Replay the data through the serving code into labelled examples.")
@_settings
@click.option("--out", required=True, type=FOLDER, help="Run folder; the examples are kept beside it.")
def prepare(settings: Path | None, overrides: tuple[str, ...], out: Path) -> None:
    """Make the labelled examples of SETTINGS and count users and labels in each split.

    `train` does this by itself. Run it first to see whether the data is long and rich enough.
    """
    with needs_training_extra():
        from rich.console import Console

        from model_export.data.labels import head_names
        from model_export.data.prepare import counts_table, prepare
        from model_export.settings import read_settings
        from model_export.training.train import work_folder
    console = Console()
    config = read_settings(settings, overrides)
    examples = prepare(config, work_folder(out) / "dataset", console)
    console.print(counts_table(examples, head_names(config.labels)))
    console.print(f"next: valuestream-model train {settings or ''} --out {out}")


@cli.command(short_help="Fit and calibrate a model on the past, measure it on the future.")
@_settings
@click.option("--out", required=True, type=FOLDER, help="Run folder to write.")
def train(settings: Path | None, overrides: tuple[str, ...], out: Path) -> None:
    """Fit the event BERT of SETTINGS and write a run folder.

    Time is cut into a training, a validation and a test split. Each begins only after the horizons of all labels of
    the split before have ended, so the data must span more than three horizons. An interrupted training goes on where
    it stopped.
    """
    with needs_training_extra():
        from rich.console import Console

        from model_export.settings import read_settings
        from model_export.training.train import train
    console = Console()
    run = train(read_settings(settings, overrides), out, console)
    _print_metrics(console, run.metrics)
    console.print(f"wrote {out}; next: valuestream-model export {out} --out models/{run.settings.name}")


@cli.command(short_help="Measure the model beside six baselines, on the same users.")
@_settings
@click.option("--out", required=True, type=FOLDER, help="Folder of the evaluation; an interrupted evaluation goes on.")
def evaluate(settings: Path | None, overrides: tuple[str, ...], out: Path) -> None:
    """Train and calibrate all candidates of SETTINGS on several test sets and seeds, and compare them.

    Candidates: recency, logistic regression, LightGBM, BG/NBD with Gamma-Gamma, the event BERT alone, the fused
    model, and LightGBM with the BERT's embedding. Intervals come from resampling users, the same for all candidates.
    """
    with needs_training_extra():
        from rich.console import Console
        from rich.markdown import Markdown

        from model_export.evaluation.evaluate import evaluate
        from model_export.report import summary
        from model_export.settings import read_settings
    console = Console()
    evaluation = evaluate(read_settings(settings, overrides), out, console)
    console.print(Markdown(summary(evaluation)))
    console.print(f"wrote {out}; next: valuestream-model report {out}")


@cli.command(short_help="Make report.html of an evaluation.")
@click.argument("folder", type=FOLDER)
def report(folder: Path) -> None:
    """Write report.html of the evaluation FOLDER: one file that can be read anywhere and sent to others."""
    with needs_training_extra():
        from model_export.report import write_report
    click.echo(f"wrote {write_report(folder)}")


@cli.command(short_help="Write the model folder that the worker serves.")
@click.argument("run", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Model folder to write or replace.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(_VARIANTS),
    help="Also write this variant; repeatable. fp32 is always written.  [default: all]",
)
@click.option("--sign-key", type=FOLDER, help="Ed25519 private key (PEM) to sign the manifest with.")
def export(run: Path, out: Path, variants: tuple[str, ...], sign_key: Path | None) -> None:
    """Write the ONNX model, manifest and golden cases of RUN as one folder, in one step.

    The same run gives the same bytes. The serving code loads the folder before it takes its place.
    """
    with needs_training_extra():
        from model_export.export.export import export as run_export
    chosen = tuple(v for v in _VARIANTS if v == "fp32" or v in (variants or _VARIANTS))
    manifest = run_export(run, out, variants=chosen, sign_key=sign_key)
    click.echo(f"wrote {out}: {manifest.name} {manifest.version}; next: valuestream-model verify {out} --run {run}")


@cli.command(short_help="Sign a model folder, so that workers know who made it.")
@click.argument("folder", type=FOLDER)
@click.option("--key", required=True, type=FOLDER, help="Ed25519 private key, in PEM.")
def sign(folder: Path, key: Path) -> None:
    """Write manifest.sig into the model folder FOLDER, or sentiment.sig into a sentiment model's.

    \b
      openssl genpkey -algorithm ed25519 -out model.key           # keep it away from the workers
      openssl pkey -in model.key -pubout -out model.pub
      valuestream-model sign models/shop --key model.key
      valuestream worker --model-dir models/shop --model-public-key model.pub
    """
    with needs_training_extra():
        from model_export.export.signing import read_sign_key, sign_folder
    click.echo(f"wrote {sign_folder(folder, read_sign_key(key))}")


@cli.command(short_help="Prove that the exported model is the trained one.")
@click.argument("folder", type=FOLDER)
@click.option("--run", required=True, type=FOLDER, help="Run folder that it was exported from.")
@click.option("--data", type=FOLDER, help="Compare on these events instead of the run's sample.")
@click.option("--rows", type=COUNT, default=2_000, show_default=True, help="Most rows of --data.")
def verify(folder: Path, run: Path, data: Path | None, rows: int) -> None:
    """Compare FOLDER in onnxruntime with RUN in torch: logits, ranking, AUC, and a row alone with the same row in a
    batch. Also check that attention and layer norms are fused."""
    with needs_training_extra():
        from model_export.export.verify import parity_table
        from model_export.export.verify import verify as run_verify
    click.echo(parity_table(run_verify(folder, run, data=data, rows_max=rows)))


@cli.command(short_help="Train the champion on; promote the challenger if it is better.")
@_settings
@click.option(
    "--models", required=True, type=FOLDER, help="Folder of champions; its link `current` names the one to serve."
)
@click.option("--sign-key", type=FOLDER, help="Ed25519 private key (PEM) to sign a new champion with.")
def retrain(settings: Path | None, overrides: tuple[str, ...], models: Path, sign_key: Path | None) -> None:
    """Train the champion on with the newest labels, and measure both models on labels that neither has seen.

    The challenger is promoted only if the mean log-loss of all heads falls by at least retrain.margin and by more than
    chance explains. The first model has no champion to beat. The exit status is 0 whichever model wins; MODELS/history
    says why.
    """
    with needs_training_extra():
        from rich.console import Console

        from model_export.retraining.challenge import comparison_table
        from model_export.retraining.retrain import retrain as run_retrain
        from model_export.settings import read_settings
    console = Console()
    retraining = run_retrain(read_settings(settings, overrides), models, console, sign_key=sign_key)
    if retraining.comparison is not None:
        console.print(comparison_table(retraining.comparison))
    console.print(f"{'promoted' if retraining.promoted else 'kept'} {retraining.champion}: {retraining.why}")
    console.print(f"serve it by: valuestream worker --model-dir {models / 'current'}")


def _print_metrics(console: Any, metrics: dict[str, dict[str, float]]) -> None:
    """Print a table with a column for each model and a row for each metric."""
    from rich.table import Table

    table = Table("test split", *metrics, title="lower is better for log_loss, brier, ece; total_bias near 0")
    for metric in next(iter(metrics.values())):
        table.add_row(metric, *(f"{of_model.get(metric, float('nan')):.4f}" for of_model in metrics.values()))
    console.print(table)


def main() -> None:
    """Run the command line; an error of ours is one line on stderr and exit status 1."""
    debug = "--debug" in sys.argv
    try:
        cli()
    except ValuestreamError as error:
        if debug:
            raise
        click.echo(f"valuestream-model: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
