"""Variants: each graph gives nearly what the plain one gives, and int8 scores a row the same in any batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from model_export.export.precision_loss import ALONE_MAX, outputs, precision_loss
from model_export.export.variants import in_fp16, quantised
from model_export.export.verify import TOLERANCES, fusions
from tests.model_export.small_run import sample


def test_fused_graph_has_an_attention_per_layer_and_gives_what_the_plain_one_gives(
    plain: bytes, graph: bytes, tmp_path: Path
) -> None:
    counts = {}
    for name, data in (("plain", plain), ("fused", graph)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        counts[name] = fusions(path)
    assert counts["plain"].attention == 0
    assert (counts["fused"].attention, counts["fused"].norms) == (2, 5)
    rows = sample()
    assert np.abs(outputs(graph, rows.tokens, rows.features) - outputs(plain, rows.tokens, rows.features)).max() < 1e-5


def test_fused_graph_gives_what_the_plain_one_gives_for_a_history_without_events(plain: bytes, graph: bytes) -> None:
    rows = sample(8)
    nothing = np.zeros_like(rows.tokens)
    assert np.abs(outputs(graph, nothing, rows.features) - outputs(plain, nothing, rows.features)).max() < 1e-5


def test_the_chosen_int8_scores_a_row_the_same_alone_and_dynamic_int8_does_not(graph: bytes) -> None:
    rows = sample()
    int8 = quantised(graph, rows.tokens, rows.features)
    assert set(int8.losses) == {"static", "dynamic"}
    assert int8.losses[int8.kind].alone <= ALONE_MAX
    # Why the choice is not left to the loss alone.
    assert int8.losses["dynamic"].alone > 100 * ALONE_MAX


def test_int8_does_not_cut_features_beyond_the_calibration_rows(graph: bytes) -> None:
    rows = sample()
    int8 = quantised(graph, rows.tokens, rows.features).graph
    beyond = rows.features * np.float32(5)
    lost = precision_loss(int8, outputs(graph, rows.tokens, beyond), rows.tokens, beyond)
    assert lost.error < TOLERANCES["int8"].error
    assert lost.spearman > TOLERANCES["int8"].spearman


def test_int8_does_not_cut_histories_shorter_than_the_calibration_rows(graph: bytes) -> None:
    rows = sample()
    long = (rows.tokens[:, :, 0] > 0).sum(axis=1) > 8
    int8 = quantised(graph, rows.tokens[long], rows.features[long]).graph
    rows.tokens[:, 1:] = 0
    lost = precision_loss(int8, outputs(graph, rows.tokens, rows.features), rows.tokens, rows.features)
    assert lost.error < 0.2


def test_fp16_and_int8_graphs_are_smaller_and_the_same_bytes_twice(graph: bytes) -> None:
    rows = sample()
    makers: list[Callable[[], bytes]] = [
        lambda: in_fp16(graph),
        lambda: quantised(graph, rows.tokens, rows.features).graph,
    ]
    for make in makers:
        first = make()
        assert first == make()
        assert len(first) < 0.7 * len(graph)
        for text in (b"site-packages", b"/tmp", b"/home"):
            assert text not in first
