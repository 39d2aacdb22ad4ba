"""The ``valuestream-model`` command; errors as one clear line.

Torch and what else is slow to import is imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from model_export.text.cli import sentiment
from stream.errors import ConfigError, ValuestreamError

__all__ = ["main"]

COUNT = click.IntRange(min=1)
FOLDER = click.Path(path_type=Path)
Command = Callable[..., Any]
_VARIANTS: Final = ("fp32", "int8", "fp16")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="valuestream")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def cli(debug: bool) -> None:
    """Make the models that `valuestream worker` serves, and find out what they are worth.

    \b
    A settings file names the data and what is to be predicted; every key has a default:
      name = "shop"
      [data]
      source = "events.jsonl.gz"        # one JSON object a line, as you send them to Kafka
      [labels]
      churn_days = 14                   # churned: nothing at all in this time
      purchase_days = [7, 30]           # an order within

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
    Keep a model fresh: from time to time let a challenger meet it on the newest labels.
      valuestream-model retrain shop.toml --models champions/shop
      valuestream worker --model-dir champions/shop/current

    Without a settings file all commands work on simulated shoppers.
    """


cli.add_command(sentiment)


def _settings(command: Command) -> Command:
    """The settings file and what overrides it."""
    for decorate in reversed((
        click.argument("settings", required=False, type=FOLDER),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in fit.epochs=5; repeatable."),
    )):  # fmt: skip
        command = decorate(command)
    return command


@cli.command(short_help="Print the settings file with every key.")
@_settings
def config(settings: Path | None, overrides: tuple[str, ...]) -> None:
    """Print all settings as TOML: those of SETTINGS, and the defaults of what it leaves out."""
    with _training():
        from model_export.settings import as_toml, read_settings

    click.echo(as_toml(read_settings(settings, overrides)), nl=False)


@cli.command(short_help="Replay the data through the serving code into labelled examples.")
@_settings
@click.option("--out", required=True, type=FOLDER, help="Run folder; the examples are kept beside it.")
def prepare(settings: Path | None, overrides: tuple[str, ...], out: Path) -> None:
    """Make the labelled examples of SETTINGS and count them: users and outcomes in each window.

    `train` does this by itself; do it first to see whether the data is long and rich enough.
    """
    with _training():
        from rich.console import Console

        from model_export.data.labels import head_names
        from model_export.data.prepare import counts_table, prepare
        from model_export.settings import read_settings
        from model_export.training.train import work_folder
    console = Console()
    wanted = read_settings(settings, overrides)
    examples = prepare(wanted, work_folder(out) / "dataset", console)
    console.print(counts_table(examples, head_names(wanted.labels)))
    console.print(f"next: valuestream-model train {settings or ''} --out {out}")


@cli.command(short_help="Fit and calibrate a model on the past, measure it on the future.")
@_settings
@click.option("--out", required=True, type=FOLDER, help="Run folder to write.")
def train(settings: Path | None, overrides: tuple[str, ...], out: Path) -> None:
    """Fit the event BERT of SETTINGS and write a run folder.

    Time is cut into training, validation and test windows; each begins only when all label windows of the one
    before have closed, so data must span three horizons and more. An interrupted training goes on where it was.
    """
    with _training():
        from rich.console import Console

        from model_export.settings import read_settings
        from model_export.training.train import train
    console = Console()
    run = train(read_settings(settings, overrides), out, console)
    _print_metrics(console, run.metrics)
    console.print(f"wrote {out}; next: valuestream-model export {out} --out models/{run.settings.name}")


@cli.command(short_help="Measure the model beside six baselines, on the same users.")
@_settings
@click.option("--out", required=True, type=FOLDER, help="Folder of the evaluation; an interrupted one goes on.")
def evaluate(settings: Path | None, overrides: tuple[str, ...], out: Path) -> None:
    """Train and calibrate all candidates of SETTINGS on several temporal snapshots and seeds, and compare them.

    Candidates: recency, logistic regression, LightGBM, BG/NBD with Gamma-Gamma, the event BERT alone, the fused
    model, and LightGBM with the BERT's embedding. Intervals are from resampling users, the same for all.
    """
    with _training():
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
    """Write report.html of the evaluation FOLDER: one file to read anywhere and to send to others."""
    with _training():
        from model_export.report import write_report
    click.echo(f"wrote {write_report(folder)}")


@cli.command(short_help="Write the model folder that the worker serves.")
@click.argument("run", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Model folder to write or replace.")
@click.option("--variant", "variants", multiple=True, type=click.Choice(_VARIANTS), help="fp32 is always there.")
@click.option("--sign-key", type=FOLDER, help="Ed25519 private key (PEM) to sign the manifest with.")
def export(run: Path, out: Path, variants: tuple[str, ...], sign_key: Path | None) -> None:
    """Write the ONNX model, manifest and golden cases of RUN as one folder, in one step.

    The same run gives the same bytes. The folder is loaded by the serving code before it takes its place.
    """
    with _training():
        from model_export.export.export import export as run_export
    chosen = tuple(v for v in _VARIANTS if v == "fp32" or v in (variants or _VARIANTS))
    manifest = run_export(run, out, variants=chosen, sign_key=sign_key)
    click.echo(f"wrote {out}: {manifest.name} {manifest.version}; next: valuestream-model verify {out} --run {run}")


@cli.command(short_help="Sign a model folder, so that workers know whose it is.")
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
    with _training():
        from model_export.export.signing import read_sign_key, sign_folder
    click.echo(f"wrote {sign_folder(folder, read_sign_key(key))}")


@cli.command(short_help="Prove that the exported model is the trained one.")
@click.argument("folder", type=FOLDER)
@click.option("--run", required=True, type=FOLDER, help="Run folder it was exported from.")
@click.option("--data", type=FOLDER, help="Compare on these events, not on the run's sample.")
@click.option("--rows", type=COUNT, default=2_000, show_default=True, help="Most rows of --data.")
def verify(folder: Path, run: Path, data: Path | None, rows: int) -> None:
    """Compare FOLDER in onnxruntime with RUN in torch: logits, ranking, AUC, a row alone against in a batch, and
    whether attention and layer norms were fused."""
    with _training():
        from model_export.export.verify import parity_table
        from model_export.export.verify import verify as run_verify
    click.echo(parity_table(run_verify(folder, run, data=data, rows_max=rows)))


@cli.command(short_help="How fast the model runs: torch, onnxruntime, int8, GPU.")
@click.argument("folder", type=FOLDER)
@click.option("--data", type=FOLDER, help="Take users from these events, not from a simulation.")
@click.option("--format", "form", default="jsonl", show_default=True, help="Format of --data, as in settings.")
@click.option(
    "--batch", "batches", type=COUNT, multiple=True, help="Users at once; repeatable.  [default: 1, 8, 64, 256]"
)
@click.option(
    "--rounds", type=COUNT, default=9, show_default=True, help="Each way is measured so often; the median counts."
)
@click.option("--users", type=COUNT, default=1_024, show_default=True, help="Users of a round, at most.")
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="Try torch.compile too.")
@click.option("--sizes", is_flag=True, help="Also int8 over fp32 by hidden size, with random weights (minutes).")
@click.option("--output", type=FOLDER, help="Write the figures as JSON.")
@click.option("--page", type=FOLDER, help="Put the tables between the marks of this Markdown page.")
def bench(
    folder: Path,
    data: Path | None,
    form: str,
    batches: tuple[int, ...],
    rounds: int,
    users: int,
    compiled: bool,
    sizes: bool,
    output: Path | None,
    page: Path | None,
) -> None:
    """Compare ways to run the network of FOLDER, a run or a model folder: users and events a second, share of what the
    machine could do, padding, and what int8 loses.

    A model folder holds no torch weights: the network is then one of its size, on simulated users.
    """
    with _training():
        from model_export.bench.bench import BATCHES
        from model_export.bench.bench import bench as run_bench
        from model_export.bench.int8_speed import WIDTHS
        from model_export.bench.page import as_markdown, write_json, write_page
        from model_export.bench.workload import load_workload
        from model_export.data.event_log import DataConfig
    events = None if data is None else DataConfig(source=str(data), format=form)
    result = run_bench(
        load_workload(folder, events),
        batches=batches or BATCHES,
        rounds=rounds,
        compiled=compiled,
        users_max=users,
        widths=WIDTHS if sizes else (),
    )
    click.echo(as_markdown(result))
    if output is not None:
        write_json(output, result)
    if page is not None:
        write_page(page, result)


@cli.command(short_help="Train the champion on; promote the challenger if it is better.")
@_settings
@click.option(
    "--models", required=True, type=FOLDER, help="Folder of champions; its link `current` is the one to serve."
)
@click.option("--sign-key", type=FOLDER, help="Ed25519 private key (PEM) to sign a new champion with.")
def retrain(settings: Path | None, overrides: tuple[str, ...], models: Path, sign_key: Path | None) -> None:
    """Read the newest closed label windows, train the champion on, and measure both on labels that neither has seen.

    The challenger takes its place only if the mean log-loss of all heads falls by retrain.margin at least and by
    more than chance explains. The first model has nobody to beat. Status is 0 whoever wins; MODELS/history says why.
    """
    with _training():
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


@contextmanager
def _training() -> Iterator[None]:
    """Name the extra that is missing where an import fails."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"this needs the extra packages of training ({error.name}); pip install 'valuestream[cpu,train]'"
        ) from None


def _print_metrics(console: Any, metrics: dict[str, dict[str, float]]) -> None:
    from rich.table import Table

    table = Table("test window", *metrics, title="lower is better for log_loss, brier, ece; total_bias near 0")
    for metric in next(iter(metrics.values())):
        table.add_row(metric, *(f"{of.get(metric, float('nan')):.4f}" for of in metrics.values()))
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
