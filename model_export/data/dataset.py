"""Dataset: replays a history and labels what it shows; the result is the examples of each split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from model_export.data.event_log import EventLog
from model_export.data.examples import Examples
from model_export.data.labels import FutureEvents
from model_export.data.replay import Inputs, Replay
from model_export.data.splits import SPLITS, SnapshotConfig, Splits
from stream.contract.manifest import Labels

__all__ = ["Dataset", "build"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of each split, the names of the users by index, and what was left out."""

    train: Examples
    validation: Examples
    recent: Examples
    test: Examples
    names: list[str]
    span: tuple[int, int]
    #: Examples that were not made, by reason.
    left_out: Counter[str]
    #: Events that could not be used, by reason.
    dropped: Counter[str] = field(default_factory=Counter)
    #: Names of categories by hash bucket.
    categories: dict[int, str] = field(default_factory=dict)

    def of_kind(self, at_event: bool) -> Dataset:
        """The same data set with the examples at events only, or with those at snapshots only."""
        parts = {name: getattr(self, name) for name in SPLITS}
        return replace(
            self, **{name: part.take(np.flatnonzero(part.at_event == at_event)) for name, part in parts.items()}
        )


def build(log: EventLog, labels: Labels, config: SnapshotConfig, seed: int) -> Dataset:
    """Replay ``log`` and label what it shows; the same seed gives the same data set."""
    splits = Splits.laid_out(log.span, labels, config)
    replay = Replay(log, labels, config, splits, seed=seed)
    inputs = Inputs(*(np.concatenate(column) for column in zip(*replay.run(), strict=True)))
    future = FutureEvents(log.users[replay.accepted], log.rows[replay.accepted])
    columns = future.labels_after(inputs.user, inputs.as_of, labels)
    examples = Examples(**inputs._asdict(), **columns._asdict())
    rng = np.random.default_rng(seed + 1)
    parts = {
        name: examples.take(np.flatnonzero(inside)).thinned(config.examples_max, rng)
        for name, inside in splits.containing(inputs.as_of).items()
    }
    return Dataset(
        **parts,
        names=log.names,
        span=log.span,
        left_out=replay.left_out,
        dropped=log.dropped,
        categories=log.categories,
    )
