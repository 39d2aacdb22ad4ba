"""Data set: the same seed gives the same examples, and no model can learn what only the future tells."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from model_export.baselines.trees import LightGbm
from model_export.data.dataset import Dataset, build
from model_export.data.splits import SnapshotConfig
from model_export.run_folder import predict
from model_export.training.fit import fit
from model_export.training.task import FitConfig
from stream.contract.columns import DAY_S
from stream.contract.manifest import Labels
from stream.contract.tokens import CHANNELS
from tests.model_export.data.shop_history import (
    SEED,
    SNAPSHOTS,
    START,
    all_examples,
    data_set_of,
    first_sendings,
    log_of,
    raw_event,
    seconds_of,
    shoppers,
)
from tests.model_export.small import SMALL, task


def test_lines_out_of_order_give_the_examples_of_the_sorted_file() -> None:
    events = first_sendings(shoppers(seed=11))
    shuffled = [events[i] for i in np.random.default_rng(0).permutation(len(events))]
    parts = []
    for sent in (events, shuffled):
        data = data_set_of(log_of(sent), msgspec.structs.replace(SNAPSHOTS, at_event=0))
        examples = all_examples(data)
        keys = [f"{data.names[u]} {t}" for u, t in zip(examples.user, examples.as_of, strict=True)]
        order = np.argsort(keys)
        parts.append([sorted(keys), examples.tokens[order], examples.features[order], examples.value[order]])
    for was, now in zip(*parts, strict=True):
        assert np.array_equal(was, now)


def test_more_examples_than_the_bound_are_thinned_alike_for_a_seed() -> None:
    log = log_of(shoppers(seed=12))
    few = msgspec.structs.replace(SNAPSHOTS, examples_max=40)
    first, second = data_set_of(log, few), data_set_of(log, few)
    assert len(first.train) == len(first.test) == 40
    assert np.array_equal(first.train.as_of, second.train.as_of)


# -- a signal planted in the future -----------------------------------------------------------------------

#: Everyone is eligible, and the labels of each instant close before the next instant.
PERIOD_DAYS, PERIODS, PEOPLE = 6, 10, 300
TELLING_LABELS = Labels(eligible_days=90, churn_days=5, purchase_days=(5,), value_days=5)
TELLING_SNAPSHOTS = SnapshotConfig(every_days=PERIOD_DAYS, window_days=1, at_event=0)


def telling_orders(when: str, swapped: bool = False) -> Dataset:
    """A data set in which a coin decides at every instant who churns, and the content of an order always tells it.

    ``when`` says where the telling order is: "after" the instant, or "before" it, as a leak would put it. With
    ``swapped``, the orders of the last instant tell the opposite.
    """
    stays = np.random.default_rng(0).random((PERIODS, PEOPLE)) < 0.5
    events = [raw_event(user, f"u{user}", 3_600, "Product Viewed", category="hello") for user in range(PEOPLE)]
    for (period, user), stay in np.ndenumerate(stays):
        instant = (1 + period * PERIOD_DAYS) * DAY_S
        active = instant + (DAY_S if stay else round(5.5 * DAY_S))
        n = 1_000 * (1 + period) + user
        says = stay != (swapped and period == PERIODS - 1)
        telling = {"product_id": f"p{says}", "category": f"c{says}", "total": 900 if says else 5}
        order_time = active if when == "after" else instant - 60
        events.append(raw_event(n, f"u{user}", order_time, "Order Completed", **telling))
        events.append(raw_event(10**6 + n, f"u{user}", active + 60, "Order Completed", category="any", total=20))
    end = (1 + (PERIODS - 1) * PERIOD_DAYS + 5) * DAY_S
    events = [e for e in events if seconds_of(e) < START.timestamp() + end]
    events = [*sorted(events, key=seconds_of), raw_event(10**8, "last", end, "Product Viewed")]
    return build(log_of(events), TELLING_LABELS, TELLING_SNAPSHOTS, SEED)


def churn_aucs(data: Dataset) -> dict[str, float]:
    """AUC of churn on the test split: of the network, and of boosted trees that read features and category tokens."""
    config = FitConfig(epochs=4, batch_size=64, learning_rate=1e-2, patience=4, value_weight=0.0, purchase_weight=0.0)
    network = fit(task(config, model=SMALL), data.train, data.validation).network
    category = CHANNELS.index("category")
    trees = LightGbm(1, lambda part: np.column_stack((part.features, part.tokens[:, :, category])))
    trees.fit(data.train, data.validation, TELLING_LABELS)
    test = data.test
    scores = {
        "network": predict(network, test.tokens, test.features).churn,
        "lightgbm": trees.predict(test).logits[:, 0],
    }
    return {name: roc_auc_score(test.churn, score) for name, score in scores.items()}


def test_no_model_sees_a_signal_in_the_future_and_every_model_would_if_it_leaked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model_export.baselines.trees._ROUNDS_MAX", 30)
    data, leaked = telling_orders("after"), telling_orders("before")
    assert len(data.train) > 1_000
    assert np.array_equal(data.test.churn, leaked.test.churn)
    # 300 users: the AUC of a guess has a standard deviation of 0.033.
    for name, auc in churn_aucs(data).items():
        assert abs(auc - 0.5) < 0.12, name
    for name, auc in churn_aucs(leaked).items():
        assert auc > 0.95, name


def test_inputs_do_not_change_with_a_signal_planted_in_their_future() -> None:
    data, swapped = telling_orders("after"), telling_orders("after", swapped=True)
    assert set(data.test.value) == {0.0, 920.0}
    assert set(swapped.test.value) == {0.0, 25.0}
    assert np.array_equal(data.test.tokens, swapped.test.tokens)
    assert np.array_equal(data.test.features, swapped.test.features)
    leaked = telling_orders("before", swapped=True)
    assert not np.array_equal(leaked.test.features, telling_orders("before").test.features)
