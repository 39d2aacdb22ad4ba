"""Workload: a run folder and a model folder give a network and users, and anything else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.bench.workload import load_workload
from model_export.data.event_log import DataConfig
from stream.errors import ConfigError
from stream.score.scorer import DEMO_MODEL


def test_model_folder_gives_a_network_of_its_size_and_its_own_int8_graph() -> None:
    workload = load_workload(DEMO_MODEL)
    assert (workload.network.config.hidden, workload.network.config.layers, workload.network.shape.categories) == (
        32,
        2,
        12,
    )
    assert workload.graphs["int8"] == (DEMO_MODEL / "model.int8.onnx").read_bytes()
    assert len(workload.sample.tokens) > 100


def test_folder_that_is_neither_run_nor_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no manifest.json"):
        load_workload(tmp_path)


def test_data_for_a_run_folder_is_refused_because_it_has_its_own_users(run_folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a run folder, which has users of its own; leave --data out"):
        load_workload(run_folder, DataConfig("events.jsonl", "jsonl"))
