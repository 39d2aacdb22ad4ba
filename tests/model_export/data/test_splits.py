"""Splits: each starts after the labels of the one before have closed, and holds its own instants only."""

from __future__ import annotations

from dataclasses import fields

import msgspec
import numpy as np
import pytest

from model_export.data.examples import Examples
from model_export.data.splits import SPLITS, SnapshotConfig, Splits
from stream.contract.columns import DAY_S
from stream.errors import ConfigError
from tests.model_export.data.shop_history import DAYS, LABELS, SNAPSHOTS, data_set_of, log_of, shoppers


def test_recent_is_the_training_split_moved_up_until_its_labels_close_at_the_first_test_instant() -> None:
    splits = Splits.laid_out((0, DAYS * DAY_S), LABELS, SNAPSHOTS)
    horizon, width = 8 * DAY_S, 8 * DAY_S
    assert splits.recent == tuple(t + horizon + width for t in splits.train)
    assert splits.recent[1] + horizon == splits.test[0]
    assert splits.train[1] + horizon == splits.validation[0]
    assert splits.validation[1] + horizon == splits.test[0]
    assert splits.test == ((DAYS - 16) * DAY_S, (DAYS - 8) * DAY_S)
    assert splits.train[0] == 4 * DAY_S


@pytest.mark.parametrize("days", [5.0, 12.0, 1_000.0])
def test_training_split_is_as_long_as_train_days_and_no_longer_than_the_data(days: float) -> None:
    config = msgspec.structs.replace(SNAPSHOTS, train_days=days)
    splits = Splits.laid_out((0, DAYS * DAY_S), LABELS, config)
    first, last = splits.train
    assert last - first == min(days * DAY_S, last - 4 * DAY_S)
    # The end does not move: the oldest examples are cut off.
    assert last == Splits.laid_out((0, DAYS * DAY_S), LABELS, SNAPSHOTS).train[1]


def test_too_short_a_history_says_how_many_days_it_has_and_needs() -> None:
    with pytest.raises(ConfigError, match=r"spans 20 days, expected at least 44 for a horizon of 8 days"):
        Splits.laid_out((0, 20 * DAY_S), LABELS, SNAPSHOTS)


@pytest.mark.parametrize("config", [SNAPSHOTS, SnapshotConfig(every_days=3, window_days=0, train_days=20, at_event=1)])
def test_examples_lie_within_their_split_and_only_recent_shares_instants_with_others(
    config: SnapshotConfig,
) -> None:
    data = data_set_of(log_of(shoppers(seed=13)), config)
    splits = Splits.laid_out(data.span, LABELS, config)
    instants = {}
    for split in SPLITS:
        as_of = getattr(data, split).as_of
        first, last = getattr(splits, split)
        assert len(as_of) > 0
        assert first <= as_of.min() <= as_of.max() <= last
        instants[split] = set(as_of.tolist())
    assert not instants["train"] & instants["validation"]
    assert not instants["test"] & (instants["train"] | instants["validation"] | instants["recent"])
    assert data.recent.as_of.max() + 8 * DAY_S <= data.test.as_of.min()


def test_examples_that_recent_shares_with_validation_are_the_same() -> None:
    data = data_set_of(log_of(shoppers(seed=14)))
    rows = {
        name: {key: i for i, key in enumerate(zip(p.user.tolist(), p.as_of.tolist(), p.at_event.tolist(), strict=True))}
        for name, p in (("recent", data.recent), ("validation", data.validation))
    }
    shared = sorted(set(rows["recent"]) & set(rows["validation"]))
    assert len(shared) > 10
    recent = data.recent.take(np.array([rows["recent"][key] for key in shared]))
    validation = data.validation.take(np.array([rows["validation"][key] for key in shared]))
    for field in fields(Examples):
        assert np.array_equal(getattr(recent, field.name), getattr(validation, field.name)), field.name


def test_each_split_begins_after_all_labels_of_the_one_before_have_closed() -> None:
    data = data_set_of(log_of(shoppers(seed=7)))
    horizon = 8 * DAY_S
    assert data.train.as_of.max() + horizon <= data.validation.as_of.min()
    assert data.validation.as_of.max() + horizon <= data.test.as_of.min()
    assert data.test.as_of.max() + horizon <= data.span[1]
    assert min(len(data.train), len(data.validation), len(data.test)) > 0
