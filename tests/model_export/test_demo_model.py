"""The demo model that ships in the package loads, is small and knows how good it is."""

from __future__ import annotations

from stream.contract.manifest import Labels
from stream.contract.tokens import CHANNELS
from stream.score.scorer import DEMO_MODEL, Scorer


def test_demo_model_loads_is_small_and_knows_its_metrics() -> None:
    manifest = Scorer(DEMO_MODEL).manifest
    assert manifest.labels == Labels(45, 14, (7, 30), 30)
    assert sum(p.stat().st_size for p in DEMO_MODEL.iterdir()) < 3_000_000
    for head in ("churn", "purchase_7d", "purchase_30d"):
        assert manifest.metrics[f"event_bert.{head}.auc"] > manifest.metrics[f"recency.{head}.auc"]
        assert manifest.metrics[f"event_bert.{head}.ece"] < 0.05
    assert set(CHANNELS) == set(manifest.channel_sizes)
