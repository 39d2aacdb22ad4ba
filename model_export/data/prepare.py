"""Prepare: a data set → its labelled examples, kept in a folder so that they are made once.

::

    dataset.json               what they were made of, and what was left out
    <window>.safetensors       the examples of each window
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from model_export.data import event_log as history
from model_export.data import examples as dataset
from model_export.data.event_log import fingerprint
from model_export.data.examples import Dataset, Examples
from model_export.files import replaced
from model_export.settings import Settings
from stream.contract.tokens import FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ConfigError

__all__ = ["WINDOWS", "check_enough", "counts_table", "examples_key", "prepare"]

INDEX_FILE: Final = "dataset.json"
WINDOWS: Final = ("train", "validation", "recent", "test")


class _Index(msgspec.Struct, frozen=True):
    """``key`` is a hash of all that the examples depend on."""

    key: str
    names: list[str]
    span: tuple[int, int]
    left_out: dict[str, int]
    dropped: dict[str, int]
    categories: dict[int, str]


def prepare(settings: Settings, folder: Path, console: Console) -> Dataset:
    """The examples of these settings, read from ``folder`` where it holds just these, else made and kept there."""
    key = examples_key(settings)
    if (found := _load(folder, key)) is not None:
        console.print(f"examples are those kept in {folder}")
        return found
    console.print(f"reading {settings.data.name}")
    log = history.load(settings.data)
    console.print(f"replaying {len(log):,} events of {len(log.names):,} users")
    examples = dataset.build(log, settings.labels, settings.snapshots, settings.seed)
    index = _Index(
        key, examples.names, examples.span, dict(examples.left_out), dict(examples.dropped), examples.categories
    )
    with replaced(folder, INDEX_FILE) as new:
        for window in WINDOWS:
            part = getattr(examples, window)
            save_file({f.name: getattr(part, f.name) for f in fields(Examples)}, new / f"{window}.safetensors")
        (new / INDEX_FILE).write_bytes(msgspec.json.encode(index))
    return examples


def check_enough(examples: Dataset, names: list[str], least: int) -> None:
    """Raise ConfigError unless each head has ``least`` examples of both outcomes in each window."""
    for window in WINDOWS:
        part: Examples = getattr(examples, window)
        for head, y in zip(names, part.outcomes.T, strict=True):
            for answer, found in (("yes", int((y > 0).sum())), ("no", int((y == 0).sum()))):
                if found < least:
                    raise ConfigError(
                        f"{window} window has {found} examples with {head} = {answer}, expected at least "
                        f"{least}; give more users or days, or other horizons (fit.class_min sets the number)"
                    )


def counts_table(examples: Dataset, names: list[str]) -> Table:
    """Examples and the share of each outcome by window, and below them what was left out."""
    table = Table("window", "examples", *names, "value", caption=_left_out(examples))
    for window in WINDOWS:
        part: Examples = getattr(examples, window)
        shares = [f"{y.mean():.1%}" for y in part.outcomes.T] if len(part) else ["–"] * len(names)
        table.add_row(window, f"{len(part):,}", *shares, f"{part.value.mean():,.2f}" if len(part) else "–")
    return table


def _left_out(examples: Dataset) -> str:
    counts = [*examples.left_out.items(), *((f"dropped: {reason}", n) for reason, n in examples.dropped.items())]
    return ", ".join(f"{n:,} {reason}" for reason, n in counts if n) or "nothing left out"


def examples_key(settings: Settings, more: bytes = b"") -> str:
    """A hash of all that the examples depend on, and of ``more``."""
    data = settings.data
    parts = [data, settings.labels, settings.snapshots, settings.seed, FEATURES_VERSION, TOKENS_VERSION]
    digest = hashlib.sha256(msgspec.json.encode(parts))
    digest.update(fingerprint(data))
    if data.sentiment:
        digest.update((Path(data.sentiment) / "sentiment.json").read_bytes())
    digest.update(more)
    return digest.hexdigest()


def _load(folder: Path, key: str) -> Dataset | None:
    try:
        index = msgspec.json.decode((folder / INDEX_FILE).read_bytes(), type=_Index)
        if index.key != key:
            return None
        parts = {window: Examples(**load_file(folder / f"{window}.safetensors")) for window in WINDOWS}
    except (OSError, msgspec.DecodeError):
        return None
    return Dataset(
        **parts,
        names=index.names,
        span=index.span,
        left_out=Counter(index.left_out),
        dropped=Counter(index.dropped),
        categories=index.categories,
    )
