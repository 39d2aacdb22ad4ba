"""Bench page: writes the result of ``valuestream-model bench`` as JSON, and as tables in a page written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec

from model_export.bench.bench import GPU, BenchResult, Measurement
from model_export.bench.int8_speed import Int8Speedup
from model_export.bench.runners import COMPILED, EAGER, FULL, INT8, SERVING, UNBUCKETED
from stream.contract.columns import HISTORY_LEN
from stream.errors import ConfigError, ContractError

__all__ = ["as_markdown", "read_json", "write_json", "write_page"]

#: The tables stand between these two lines of the page.
BEGIN: Final = "<!-- bench: written by `valuestream-model bench` -->"
END: Final = "<!-- bench: end -->"
#: Name of a ratio, the faster and the slower runner, and the target. A target names no batch size: the table shows all.
_TARGETS: Final = (
    ("onnxruntime over torch eager", SERVING, EAGER, 3.0),
    ("int8 over fp32", INT8, SERVING, 1.8),
    ("buckets over padding to the longest", SERVING, UNBUCKETED, 1.5),
    ("buckets over padding to 64", SERVING, FULL, 1.5),
)


def write_json(path: Path, result: BenchResult) -> None:
    """Write the result as indented JSON, with its keys always in the same order."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def read_json(path: Path) -> BenchResult:
    """Read what :func:`write_json` wrote; raises ContractError if the file holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except (OSError, msgspec.DecodeError) as error:
        raise ContractError(f"{path} cannot be read: {error}; write it by `valuestream-model bench`") from None


def write_page(path: Path, result: BenchResult) -> None:
    """Put the tables between the marks of the page and keep all else. Raises ConfigError if the page has no marks."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{path} has no lines {BEGIN!r} and {END!r}; put them where the tables belong")
    path.write_text(f"{before}{BEGIN}\n\n{as_markdown(result)}\n{END}{after}", encoding="utf-8")


def as_markdown(result: BenchResult) -> str:
    """Machine, targets, a table for each number of threads, and the runners that were not measured."""
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    lines = [
        f"Model {result.model}, {result.events_per_user:.1f} events per user; medians of {result.rounds} rounds."
        f" Machine: {machine}.",
        "",
        *_targets(result),
    ]
    for threads, rows in groupby(result.measured, key=lambda m: m.threads):
        peak = result.peak_gflop_per_second[threads]
        lines += ["", f"{_device(threads)}, peak {peak:,.0f} GFLOP/s:", "", *_table(list(rows))]
    lines += ["", *_compile_seconds(result)]
    lines += [f"- not measured: {runner} ({reason})" for runner, reason in result.not_measured.items()]
    if result.int8:
        lines += ["", *_speedups(result.int8)]
    return "\n".join(lines) + "\n"


def _device(threads: int) -> str:
    return "GPU, fp16" if threads == GPU else f"{threads} thread{'s'[: threads > 1]}"


def _compile_seconds(result: BenchResult) -> Iterator[str]:
    """Lines beside the table: this time is no part of the speed of the compiled network."""
    for threads, seconds in result.compile_seconds.items():
        yield f"- {COMPILED} compiled for {seconds:,.0f} s ({_device(threads)}), which is not counted"


def _speedups(int8: list[Int8Speedup]) -> list[str]:
    """Table of int8 over fp32: a row for each hidden size, a column for each batch size."""
    batches = sorted({x.batch for x in int8})
    gains = {(x.hidden, x.batch): f"{x.gain:.2f}" for x in int8}
    head = ["int8 over fp32, one thread, hidden", *(f"batch {batch} × {HISTORY_LEN}" for batch in batches)]
    widths = sorted({x.hidden for x in int8})
    rows = [[str(hidden), *(gains.get((hidden, batch), "–") for batch in batches)] for hidden in widths]
    return [_row(head), _row(["---:"] * len(head)), *map(_row, rows)]


def _targets(result: BenchResult) -> list[str]:
    """Table of the ratios that have a target: one thread, a column for each batch size."""
    batches = sorted({m.batch for m in result.measured})
    head = ["one thread", *(f"batch {batch}" for batch in batches), "target"]
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for name, fast, slow, target in _TARGETS:
        ratios = [result.ratio(fast, slow, batch) for batch in batches]
        lines.append(_row([name, *("–" if x != x else f"{x:.2f}" for x in ratios), f"≥ {target:g}"]))
    lost = "–" if result.auc_loss is None else f"{result.auc_loss:.4f}"
    return [*lines, "", f"AUC that int8 loses: {lost}, target ≤ 0.002."]


def _table(rows: list[Measurement]) -> list[str]:
    head = ["way", "batch", "users/s", "events/s", "padding", "GFLOP/s", "of peak"]
    lines = [_row(head), _row(["---", *["---:"] * 6])]
    for m in rows:
        numbers = (f"{m.batch}", f"{m.users_per_second:,.0f}", f"{m.events_per_second:,.0f}", f"{m.padding:.0%}")
        lines.append(_row([m.runner, *numbers, f"{m.gflop_per_second:.1f}", f"{m.share_of_peak:.1%}"]))
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
