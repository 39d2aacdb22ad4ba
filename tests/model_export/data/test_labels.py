"""Labels: they equal a count by hand, and the invoices of a real shop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_export.data.dataset import build
from model_export.data.event_log import DataConfig, load
from model_export.data.splits import SnapshotConfig
from stream.contract.columns import DAY_S
from stream.contract.manifest import Labels
from stream.decode.decoder import hash_bucket
from tests.model_export.data.shop_history import (
    SEED,
    Raw,
    all_examples,
    data_set_of,
    first_sendings,
    log_of,
    seconds_of,
    shoppers,
)


@pytest.mark.parametrize("seed", range(3))
def test_labels_equal_a_count_by_hand(seed: int) -> None:
    events = shoppers(seed)
    data = data_set_of(log_of(events))
    examples = all_examples(data)
    for i in range(len(examples)):
        own = [e for e in first_sendings(events) if e["userId"] == data.names[examples.user[i]]]
        ages = [(seconds_of(e) - int(examples.as_of[i]), e) for e in own]

        def within(days: float, ages: list[tuple[int, Raw]] = ages) -> list[Raw]:
            return [e for age, e in ages if 0 < age <= days * DAY_S]

        assert examples.churn[i] == (not within(5))
        orders = [[e["event"] == "Order Completed" for e in within(days)] for days in (3, 8)]
        assert examples.purchase[i].tolist() == [any(is_order) for is_order in orders]
        signs = {"Order Completed": 1, "Order Refunded": -1}
        net = sum(signs.get(e["event"], 0) * e["properties"]["total"] for e in within(8))
        assert examples.value[i] == pytest.approx(max(net, 0), abs=1e-6)
        named = [e["properties"]["category"] for e in within(8) if e["properties"].get("category")]
        assert examples.category[i] == (hash_bucket(named[0]) if named else 0)
    assert 0 < (examples.category == 0).mean() < 1


@pytest.mark.data
def test_uci_examples_agree_with_its_invoices(data_dir: Path) -> None:
    source = str(data_dir / "uci_online_retail.parquet")
    log = load(DataConfig(source=source, format="uci-online-retail"))
    labels = Labels(eligible_days=180, churn_days=60, purchase_days=(60,), value_days=60)
    data = build(log, labels, SnapshotConfig(every_days=30, window_days=14), SEED)
    buyers: Callable[[int, int], set[int]] = lambda first, last: set(  # noqa: E731
        log.users[(log.rows["time"] > first) & (log.rows["time"] <= last) & (log.rows["value"] > 0)].tolist()
    )
    test = data.test.take(np.flatnonzero(~data.test.at_event))
    t = int(test.as_of.max())
    at = test.take(np.flatnonzero(test.as_of == t))
    assert len(at) > 2_000
    bought = buyers(t, t + 60 * DAY_S)
    assert np.array_equal(at.purchase[:, 0] > 0, [u in bought for u in at.user.tolist()])
    assert 0.3 < at.purchase.mean() < 0.7
