"""Prepare: turns a data set into labelled examples and keeps them in a folder, so that they are made only once.

::

    dataset.json               what the examples were made from, and what was left out
    <split>.safetensors        the examples of each split
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

from model_export.data import event_log
from model_export.data.dataset import Dataset, build
from model_export.data.examples import Examples
from model_export.data.splits import SPLITS
from model_export.files import replaced
from model_export.settings import Settings
from stream.contract.tokens import FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ConfigError

__all__ = ["check_enough", "counts_table", "examples_key", "prepare"]

INDEX_FILE: Final = "dataset.json"


class _Index(msgspec.Struct, frozen=True):
    """What the index file holds; ``key`` is a hash of everything that the examples depend on."""

    key: str
    names: list[str]
    span: tuple[int, int]
    left_out: dict[str, int]
    dropped: dict[str, int]
    categories: dict[int, str]


def prepare(settings: Settings, folder: Path, console: Console) -> Dataset:
    """The examples of these settings: read from ``folder`` if they are kept there, else made and kept there."""
    key = examples_key(settings)
    if (kept := _load(folder, key)) is not None:
        console.print(f"examples are those kept in {folder}")
        return kept
    console.print(f"reading {settings.data.name}")
    log = event_log.load(settings.data)
    console.print(f"replaying {len(log):,} events of {len(log.names):,} users")
    examples = build(log, settings.labels, settings.snapshots, settings.seed)
    index = _Index(
        key, examples.names, examples.span, dict(examples.left_out), dict(examples.dropped), examples.categories
    )
    with replaced(folder, INDEX_FILE) as new:
        for split in SPLITS:
            part = getattr(examples, split)
            save_file({f.name: getattr(part, f.name) for f in fields(Examples)}, new / f"{split}.safetensors")
        (new / INDEX_FILE).write_bytes(msgspec.json.encode(index))
    return examples


def check_enough(examples: Dataset, heads: list[str], class_min: int) -> None:
    """Raise ConfigError unless each head has ``class_min`` examples of both outcomes in each split."""
    for split in SPLITS:
        part: Examples = getattr(examples, split)
        for head, outcomes in zip(heads, part.outcomes.T, strict=True):
            for answer, count in (("yes", int((outcomes > 0).sum())), ("no", int((outcomes == 0).sum()))):
                if count < class_min:
                    raise ConfigError(
                        f"{split} split has {count} examples with {head} = {answer}, expected at least "
                        f"{class_min}; give more users or days, or other horizons (fit.class_min sets the number)"
                    )


def counts_table(examples: Dataset, heads: list[str]) -> Table:
    """How many examples each split has, the share of each outcome, and below the table what was left out."""
    table = Table("split", "examples", *heads, "value", caption=_left_out(examples))
    for split in SPLITS:
        part: Examples = getattr(examples, split)
        shares = [f"{y.mean():.1%}" for y in part.outcomes.T] if len(part) else ["–"] * len(heads)
        table.add_row(split, f"{len(part):,}", *shares, f"{part.value.mean():,.2f}" if len(part) else "–")
    return table


def _left_out(examples: Dataset) -> str:
    counts = [*examples.left_out.items(), *((f"dropped: {reason}", n) for reason, n in examples.dropped.items())]
    return ", ".join(f"{n:,} {reason}" for reason, n in counts if n) or "nothing left out"


def examples_key(settings: Settings, more: bytes = b"") -> str:
    """A hash of everything that the examples depend on, and of ``more``."""
    data = settings.data
    parts = [data, settings.labels, settings.snapshots, settings.seed, FEATURES_VERSION, TOKENS_VERSION]
    digest = hashlib.sha256(msgspec.json.encode(parts))
    digest.update(event_log.fingerprint(data))
    if data.sentiment:
        digest.update((Path(data.sentiment) / "sentiment.json").read_bytes())
    digest.update(more)
    return digest.hexdigest()


def _load(folder: Path, key: str) -> Dataset | None:
    """The examples that ``folder`` keeps, or None if it keeps others or cannot be read."""
    try:
        index = msgspec.json.decode((folder / INDEX_FILE).read_bytes(), type=_Index)
        if index.key != key:
            return None
        parts = {split: Examples(**load_file(folder / f"{split}.safetensors")) for split in SPLITS}
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
