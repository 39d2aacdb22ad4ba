"""Command line of ``valuestream-model bench``. Modules that are slow to import are imported inside the command."""

from __future__ import annotations

from pathlib import Path

import click

from model_export.extras import needs_training_extra

__all__ = ["bench"]

COUNT = click.IntRange(min=1)
FOLDER = click.Path(path_type=Path)


@click.command(short_help="Measure how fast the model runs: torch, onnxruntime, int8, GPU.")
@click.argument("folder", type=FOLDER)
@click.option("--data", type=FOLDER, help="Take users from these events instead of a simulation.")
@click.option("--format", "form", default="jsonl", show_default=True, help="Format of --data, as in settings.")
@click.option(
    "--batch", "batches", type=COUNT, multiple=True, help="Users at once; repeatable.  [default: 1, 8, 64, 256]"
)
@click.option(
    "--rounds", type=COUNT, default=9, show_default=True, help="How often each runner is measured; the median counts."
)
@click.option("--users", type=COUNT, default=1_024, show_default=True, help="Most users of a round.")
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True, help="Measure torch.compile too.")
@click.option(
    "--sizes", is_flag=True, help="Also compare int8 with fp32 by hidden size, with random weights (takes minutes)."
)
@click.option("--output", type=FOLDER, help="Write the result as JSON.")
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
    """Compare runners of the network of FOLDER, a run folder or a model folder: users and events a second, the share of
    the machine's peak speed, padding, and what int8 loses.

    A model folder holds no torch weights. Its network is replaced by one of the same size, on simulated users.
    """
    with needs_training_extra():
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
