"""Tests of parity: training and serving give real users the same scores, live through Kafka and offline."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from model_export.data.event_log import DataConfig, EventLog, load
from stream.contract.events import EventBatch
from stream.datasets.formats import read_events
from stream.score.decide import AlertRule, Decider
from stream.score.encode import encode
from stream.score.features import features
from stream.score.scorer import DEMO_MODEL, Scorer
from stream.state.partition_state import PartitionState
from tests.broker import harness
from tests.broker.harness import WorkerProcess, produce

pytestmark = [pytest.mark.broker, pytest.mark.data]

#: The demo model reports in dollars. Any rate would do for parity, if both sides use the same one.
POUND_RATE = 1.0
DAY = 86_400


def test_live_scores_of_uci_customers_equal_the_offline_scores(make_settings, data_dir: Path, tmp_path: Path) -> None:
    settings = make_settings(instance_id="w", lateness_s=400 * DAY)
    file = data_dir / "uci_online_retail.parquet"
    log = load(DataConfig(source=str(file), format="uci-online-retail"))
    assert len(log.names) > 4_000
    produce(settings, records(file))
    with WorkerProcess(
        settings,
        tmp_path / "log",
        VALUESTREAM_FX_RATES=json.dumps({"GBP": POUND_RATE}),
        VALUESTREAM_LATENESS_S=str(400 * DAY),
    ) as worker:
        worker.wait_ready()
        worker.wait_idle(settings)
        assert worker.metric("valuestream_dead_letters_total") == 0
        assert worker.terminate() == 0
    live = harness.last_values(harness.read_topic(settings, settings.scores_topic))
    assert set(live) == set(log.names)
    assert_close(log, {user: json.loads(value) for user, value in live.items()})


def records(file: Path) -> list[harness.Message]:
    return [event.record()[:2] for event in read_events(file, "uci-online-retail")]


def assert_close(log: EventLog, live: dict[str, dict]) -> None:
    """Check the live scores against one state of the training events, scored at the same instants."""
    state = PartitionState(400 * DAY)
    state.apply(EventBatch([log.names[i] for i in log.users.tolist()], log.rows))
    as_of = np.array([int(datetime.fromisoformat(live[user]["as_of"]).timestamp()) for user in state.ids])
    scorer = Scorer(DEMO_MODEL)
    snapshot = state.snapshot(np.arange(len(state)))
    raw = scorer.run(encode(snapshot, as_of), features(snapshot, as_of))
    decider = Decider(scorer.manifest, scorer.sha256, AlertRule(high=0.7, clear=0.6, cooldown_s=DAY))
    for offline in decider.decide(snapshot, as_of, raw).scores:
        online = live[offline.user_id]
        assert online["n_events"] == offline.n_events
        assert online["churn"]["probability"] == pytest.approx(offline.churn.probability, abs=1e-4)
        for live_head, offline_head in zip(online["purchase"], offline.purchase, strict=True):
            assert live_head["probability"] == pytest.approx(offline_head.probability, abs=1e-4)
        assert online["ltv"]["expected"] == pytest.approx(offline.ltv.expected, rel=1e-4, abs=1e-4)
