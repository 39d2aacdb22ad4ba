"""Labelled texts: reads them from a file and splits them: the test part is of a later time or of other people.

A random split is refused. Reviews of one sale, day or person are alike, so it would measure what the model remembers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

from model_export.text.tables import read_rows
from stream.arrays import Floats, Rows, Slots
from stream.errors import ConfigError
from stream.score.sentiment import LABELS

__all__ = ["Columns", "LabelledTexts", "Split", "read_labelled", "split"]

ROWS_MAX: Final = 1_000_000
#: Names of labels in a file: those of the classes, or stars from one to five.
_CLASSES: Final = {
    **{name: i for i, name in enumerate(LABELS)},
    **{"1": 0, "2": 0, "3": 1, "4": 2, "5": 2},
}
#: Shares of the training part and of the validation part (early stopping, temperature). The rest is the test part.
_SHARES: Final = (0.7, 0.15)
_SPACE_BEFORE_OFFSET: Final = re.compile(r" (?=[+-]\d\d:?\d\d$)")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns: text, label, and the one that keeps the parts apart, time or user."""

    text: str = "text"
    label: str = "label"
    time: str = ""
    user: str = ""

    def __post_init__(self) -> None:
        if bool(self.time) == bool(self.user):
            found = f"both {self.time!r} and {self.user!r}" if self.time else "neither"
            raise ConfigError(
                f"time or user column: found {found}, expected one; the test part must be of later time "
                "(--time-column) or of other people (--user-column), as a random split measures remembering"
            )


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """``n`` texts with classes ``(n,)``, sorted by the key ``(n,)`` that keeps the parts apart."""

    texts: list[str]
    #: Indices into ``LABELS``.
    labels: Slots
    #: Seconds since 1970, or a number in [0, 1) for each user.
    keys: Floats

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Rows) -> LabelledTexts:
        """These rows, in this order."""
        return LabelledTexts([self.texts[row] for row in rows.tolist()], self.labels[rows], self.keys[rows])


@dataclass(frozen=True, slots=True)
class Split:
    """Three parts that share no text, and no instant or no user. ``repeats`` counts texts that were left out."""

    train: LabelledTexts
    validation: LabelledTexts
    test: LabelledTexts
    repeats: int


def read_labelled(path: Path, columns: Columns, rows_max: int = ROWS_MAX) -> LabelledTexts:
    """Read labelled texts from a CSV or JSON Lines file, sorted by time or user. A ConfigError names the line."""
    texts, labels, keys = [], [], []
    names = [columns.text, columns.label, columns.time or columns.user]
    for line, (text, label, key) in read_rows(path, names, rows_max):
        place = f"{path}, line {line}"
        name = label.strip().lower().removesuffix(".0")
        if name not in _CLASSES:
            raise ConfigError(f"{place}: label is {label!r:.40}, expected {', '.join(LABELS)} or 1 to 5 stars")
        if not key:
            raise ConfigError(
                f"{place}: column {names[2]!r} is empty, expected a value in each row; leave such rows out"
            )
        if text.strip():
            texts.append(text)
            labels.append(_CLASSES[name])
            keys.append(_seconds(key, place) if columns.time else _user_place(key))
    labelled = LabelledTexts(texts, np.array(labels, np.int64), np.array(keys, np.float64))
    return labelled.take(np.argsort(labelled.keys, kind="stable"))


def split(texts: LabelledTexts, class_min: int) -> Split:
    """Cut by key into 70, 15 and 15 %. Raises ConfigError if a part has fewer than ``class_min`` of a class.

    A text that repeats an earlier one word for word is left out. Otherwise a copied review would teach and test.
    """
    first = {text: row for row, text in reversed(list(enumerate(texts.texts)))}
    kept = texts.take(np.array(sorted(first.values()), np.int64))
    ends = [kept.keys[min(int(share * len(kept)), len(kept) - 1)] for share in np.cumsum(_SHARES)] if kept.texts else []
    # All texts of one key lie on the same side: a cut is between instants, or between users.
    part = np.searchsorted(np.array(ends), kept.keys, side="right")
    parts = [kept.take(np.flatnonzero(part == i)) for i in range(3)]
    for name, part_texts in zip(("training", "validation", "test"), parts, strict=True):
        _check_classes(name, part_texts.labels, class_min)
    train, validation, test = parts
    return Split(train, validation, test, repeats=len(texts) - len(kept))


def _check_classes(part: str, labels: Slots, class_min: int) -> None:
    counts = np.bincount(labels, minlength=len(LABELS)).tolist()
    if min(counts) < class_min:
        found = ", ".join(f"{count} {name}" for name, count in zip(LABELS, counts, strict=True))
        raise ConfigError(
            f"the {part} part has {found}, expected at least {class_min} of each; "
            "give more texts or set --class-min lower"
        )


def latest(texts: LabelledTexts, rows_max: int) -> LabelledTexts:
    """At most the last ``rows_max`` texts. If texts are sorted by time, they are nearest to the next part."""
    return texts.take(np.arange(max(0, len(texts) - rows_max), len(texts)))


def _seconds(value: str, place: str) -> float:
    try:
        return float(value)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(_SPACE_BEFORE_OFFSET.sub("", value.strip()))
    except ValueError:
        raise ConfigError(f"{place}: time is {value!r:.40}, expected ISO 8601 or seconds since 1970") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _user_place(user: str) -> float:
    """A number in [0, 1) for each user; its order has no meaning."""
    return xxhash.xxh3_64_intdigest(user.encode()) / 2**64


def span(texts: Sequence[LabelledTexts]) -> tuple[float, float]:
    """The smallest and the largest key."""
    keys = np.concatenate([part.keys for part in texts])
    return float(keys.min()), float(keys.max())
