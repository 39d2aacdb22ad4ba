"""The ``valuestream-model`` command: train, export, verify; errors as one clear line.

Torch and what else is slow to import is imported inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.datasets.formats import FORMATS
from stream.errors import ConfigError, ValuestreamError

if TYPE_CHECKING:
    from model_export.run import Run

__all__ = ["main"]

_TRAIN_EXTRA = "training needs the extra packages ({}); pip install 'valuestream[cpu,train]'"


class DayList(click.ParamType):
    """Days as ``7,30``."""

    name = "DAYS,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read a list of positive numbers; sorted, each once."""
        if isinstance(value, tuple):
            return value
        try:
            days = sorted({float(part) for part in str(value).split(",")})
        except ValueError:
            days = []
        if not days or days[0] <= 0:
            self.fail(f"found {value!r}, expected days above 0, such as 7,30", param, ctx)
        return tuple(days)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="valuestream")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def cli(debug: bool) -> None:
    """Make the models that `valuestream worker` serves.

    \b
    Try it on simulated shoppers, in about five minutes on one core:
      valuestream-model train --data simulator --out runs/demo
      valuestream-model export runs/demo --out models/demo
      valuestream-model verify models/demo --run runs/demo
      valuestream worker --model-dir models/demo

    \b
    On your own events, one JSON object a line in the envelope you send to Kafka:
      valuestream-model train --data events.jsonl.gz --format jsonl --out runs/mine
    """


DAYS = click.FloatRange(min=0, min_open=True)
COUNT = click.IntRange(min=1)


@cli.command(short_help="Replay a data set through the serving code and fit the event BERT.")
@click.option("--data", required=True, metavar="PATH|simulator", help="A file of events, or `simulator`.")
@click.option("--format", type=click.Choice(list(FORMATS)), default="jsonl", show_default=True, help="Of the file.")
@click.option("--envelope", default="segment", show_default=True, help="Of a jsonl file: segment or flat.")
@click.option("--currency", default="", help="Reporting currency.  [default: that of the format, else USD]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder to write.")
@click.option("--name", default="event-bert", show_default=True, help="Name of the model in every score.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Same seed, same weights (CPU).")
@click.option("--users", type=COUNT, default=2_500, show_default=True, help="Simulator: shoppers living at a time.")
@click.option("--days", type=COUNT, default=210, show_default=True, help="Simulator: days to simulate.")
@click.option("--eligible-days", type=DAYS, default=45.0, show_default=True, help="Score users active in this time.")
@click.option("--churn-days", type=DAYS, default=14.0, show_default=True, help="Churned: nothing at all in this time.")
@click.option("--purchase-days", type=DayList(), default=(7.0, 30.0), help="Order within.  [default: 7,30]")
@click.option(
    "--value-days", type=DAYS, default=30.0, show_default=True, help="Net revenue within; a purchase horizon."
)
@click.option("--every-days", type=DAYS, default=14.0, show_default=True, help="Between snapshots of all users.")
@click.option(
    "--window-days", type=click.FloatRange(min=0), default=14.0, show_default=True, help="Of validation, test."
)
@click.option("--at-event", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Odds of event examples.")
@click.option("--examples-max", type=COUNT, default=400_000, show_default=True, help="Of each window; bounds memory.")
@click.option("--events-max", type=COUNT, default=20_000_000, show_default=True, help="Of the data; bounds memory.")
@click.option("--epochs", type=COUNT, default=3, show_default=True, help="At most; the best on validation is kept.")
@click.option("--hidden", type=COUNT, default=32, show_default=True, help="Width of the network.")
@click.option("--layers", type=COUNT, default=2, show_default=True, help="Of the BERT.")
@click.option("--dropout", type=click.FloatRange(0, 0.9), default=0.2, show_default=True, help="Of events and heads.")
@click.option("--batch-size", type=COUNT, default=256, show_default=True, help="Examples of a training step.")
@click.option("--learning-rate", type=DAYS, default=2e-3, show_default=True, help="Of AdamW, after warm-up.")
@click.option("--weight-decay", type=click.FloatRange(min=0), default=0.1, show_default=True, help="Of AdamW.")
@click.option(
    "--value-weight", type=click.FloatRange(min=0), default=0.1, show_default=True, help="Of the value's loss."
)
@click.option("--patience", type=COUNT, default=2, show_default=True, help="Epochs without progress before stopping.")
@click.option("--threads", type=COUNT, default=1, show_default=True, help="Other numbers give other rounding.")
@click.option("--class-min", type=COUNT, default=50, show_default=True, help="Fewest examples of a class in a window.")
def train(out: Path, name: str, **given: Any) -> None:
    """Replay DATA through the serving code, fit the event BERT on the past, measure it on the future.

    Time is cut into train, validation and test windows; each begins only when all label windows of the one before
    have closed, so data must span three horizons and more. The table at the end compares the model with recency
    alone and with logistic regression, on the same users of the test window. Where it is not better, use less.
    """
    try:
        from rich.console import Console

        from model_export.settings import settings
        from model_export.train import train as run_training
    except ImportError as error:
        raise ConfigError(_TRAIN_EXTRA.format(error.name)) from None
    console = Console()
    run = run_training(out, name, settings(**given), console)
    _print_metrics(console, run)
    console.print(f"wrote {out}; next: valuestream-model export {out} --out models/{name}")


@cli.command(short_help="Write the model folder that the worker serves.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model folder to write or replace.")
@click.option("--medium", type=click.FloatRange(0, 1), default=0.4, show_default=True, help="Medium churn from here.")
@click.option("--high", type=click.FloatRange(0, 1), default=0.7, show_default=True, help="High churn from here.")
@click.option("--sufficient-events", type=COUNT, default=5, show_default=True, help="Fewer: data_sufficiency is low.")
def export(run: Path, out: Path, medium: float, high: float, sufficient_events: int) -> None:
    """Write the ONNX model, manifest and golden cases of RUN as one folder, in one step.

    The same run gives the same bytes. The folder is loaded by the serving code before it takes its place.
    """
    if not medium < high:
        raise ConfigError(f"--medium is {medium:g}, expected less than --high {high:g}")
    try:
        from model_export.export import export as run_export
    except ImportError as error:
        raise ConfigError(_TRAIN_EXTRA.format(error.name)) from None
    manifest = run_export(run, out, bands=(medium, high), sufficient_events=sufficient_events)
    click.echo(f"wrote {out}: {manifest.name} {manifest.version}; next: valuestream-model verify {out} --run {run}")


@cli.command(short_help="Prove that the exported model is the trained one.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--run", required=True, type=click.Path(path_type=Path), help="Run folder it was exported from.")
@click.option("--data", type=click.Path(path_type=Path), help="Compare on these events, not on the run's sample.")
@click.option("--rows", type=COUNT, default=2_000, show_default=True, help="Most rows of --data.")
def verify(folder: Path, run: Path, data: Path | None, rows: int) -> None:
    """Compare FOLDER in onnxruntime with RUN in torch: logits, ranking, and a row alone against in a batch."""
    try:
        from model_export.verify import verify as run_verify
    except ImportError as error:
        raise ConfigError(_TRAIN_EXTRA.format(error.name)) from None
    parity = run_verify(folder, run, data=data, rows_max=rows)
    alone = "identical" if parity.alone == 0 else f"within {parity.alone:.1e}"
    click.echo(
        f"{folder} agrees on {parity.rows:,} rows: largest error {parity.error:.1e} in logits, "
        f"rank correlation {parity.spearman:.6f}, a row alone and in a batch {alone}"
    )


def _print_metrics(console: Any, run: Run) -> None:
    from rich.table import Table

    models = [name for name in run.metrics if not name.endswith("_at_events")]
    table = Table("test window", *models, title="snapshots; lower is better for log_loss, brier, ece")
    for metric in run.metrics[models[0]]:
        table.add_row(metric, *(f"{run.metrics[m].get(metric, float('nan')):.4f}" for m in models))
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
