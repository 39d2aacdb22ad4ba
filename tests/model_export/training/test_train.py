"""Train: a run folder needs nothing else, is the same for the same seed, and is written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from model_export.data.examples import Examples
from model_export.data.prepare import prepare
from model_export.network.event_bert import ModelConfig
from model_export.run_folder import Run, load_run, predict
from model_export.settings import Settings
from model_export.training import model as training
from model_export.training.model import products_of, train_model
from model_export.training.task import Task
from model_export.training.train import train, work_folder
from stream.errors import ConfigError
from tests.model_export.small import SHOP, changed


def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(SHOP, folder, quiet())
    return folder


@pytest.fixture(scope="module")
def run(run_folder: Path) -> Run:
    return load_run(run_folder)[0]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def test_the_run_folder_holds_no_pickle_and_no_path(run_folder: Path) -> None:
    assert sorted(p.name for p in run_folder.iterdir()) == ["run.json", "sample.safetensors", "weights.safetensors"]
    text = (run_folder / "run.json").read_text()
    assert str(Path.cwd()) not in text
    assert str(run_folder.parent) not in text


def test_a_run_tells_its_settings_and_how_good_it_is_on_the_test_split(run: Run) -> None:
    assert run.settings == SHOP
    assert run.currency == "USD"
    assert run.counts["left out: censored"] > 0
    assert min(run.counts[split] for split in ("train", "validation", "recent", "test")) > 0
    assert {"event_bert", "event_bert_at_events"} <= set(run.metrics)
    for metrics in run.metrics.values():
        assert 0.5 < metrics["churn.auc"] <= 1
        assert 0 < metrics["churn.base_rate"] < 1
    assert len(run.categories) == run.shape.categories == 4
    assert all(name.isalpha() for name in run.categories)


def test_the_sample_is_rows_of_the_test_split_by_rising_length(run_folder: Path) -> None:
    _, network, sample, _ = load_run(run_folder)
    test = prepare(SHOP, work_folder(run_folder) / "dataset", quiet()).test
    assert len(sample.churn) == len(test)
    lengths = (sample.tokens[:, :, 0] > 0).sum(axis=1)
    assert (np.diff(lengths) >= 0).all()
    assert sample.value.sum() == pytest.approx(test.value.sum())
    assert np.isfinite(predict(network, sample.tokens, sample.features).churn).all()


def test_an_interrupted_training_goes_on_to_the_same_run(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "refit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(SHOP, folder, quiet())
    assert not folder.exists()
    kept = work_folder(folder) / "checkpoints"
    assert list(kept.rglob("*.pt"))
    with monkeypatch.context() as patch:
        # Finished work is not done again: neither the examples nor the first fit.
        patch.setattr("model_export.data.event_log.load", interrupt)
        train(SHOP, folder, quiet())
    assert digest(folder) == digest(run_folder)
    assert (folder / "run.json").read_bytes() == (run_folder / "run.json").read_bytes()
    assert load_file(folder / "sample.safetensors").keys() == load_file(run_folder / "sample.safetensors").keys()
    assert not kept.exists()


def test_training_does_not_go_on_from_checkpoints_of_other_settings(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "refit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(changed(SHOP, "fit", learning_rate=0.05), folder, quiet())
    train(SHOP, folder, quiet())
    assert (folder / "run.json").read_bytes() == (run_folder / "run.json").read_bytes()


def test_too_few_examples_of_a_class_are_refused_with_both_counts_and_nothing_is_written(tmp_path: Path) -> None:
    few = changed(changed(SHOP, "data", users=20), "fit", class_min=200)
    with pytest.raises(ConfigError, match=r"train split has \d+ examples with churn = yes, expected at least 200"):
        train(few, tmp_path / "run", quiet())
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis").write_text("mine")
    with pytest.raises(ConfigError, match=r"exists and holds no run.json, so it is not replaced"):
        train(SHOP, tmp_path / "run", quiet())
    assert (tmp_path / "run" / "thesis").read_text() == "mine"


def test_a_teacher_is_fitted_first_and_its_student_gets_its_probabilities_on_each_split(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = prepare(SHOP, work_folder(run_folder) / "dataset", quiet())
    teacher = ModelConfig(hidden=16, layers=1, heads=2, categories=4)
    given: list[tuple[ModelConfig, int, np.ndarray | None]] = []

    def spied(original: Any) -> Any:
        def call(task: Task, rows: Examples, until: Any, soft: np.ndarray | None = None) -> Any:
            given.append((task.model, len(rows), soft))
            return original(task, rows, until, soft)

        return call

    monkeypatch.setattr(training, "fit", spied(training.fit))
    monkeypatch.setattr(training, "refit", spied(training.refit))
    taught = msgspec.structs.replace(SHOP, teacher=teacher)
    model = train_model(taught, examples, 3, Progress(disable=True, console=quiet()))
    assert model.network.config == SHOP.model
    assert [(config, n) for config, n, _ in given] == [
        (teacher, len(examples.train)), (SHOP.model, len(examples.train)), (SHOP.model, len(examples.recent)),
    ]  # fmt: skip
    first, *others = (soft for _, _, soft in given)
    assert first is None
    for soft, part in zip(others, (examples.train, examples.recent), strict=True):
        assert soft is not None
        assert soft.shape == (len(part), 3)
        assert ((soft > 0) & (soft < 1)).all()
        assert roc_auc_score(part.churn, soft[:, 0]) > 0.6


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        ("text", {"checkpoint": "any"}, "simulated products have no names; set text.catalogue, or leave"),
        ("text", {"checkpoint": "any", "catalogue": "missing.csv"}, "missing.csv"),
    ],
)
def test_product_texts_that_cannot_be_found_are_refused(table: str, values: dict[str, str], message: str) -> None:
    settings: Settings = changed(SHOP, table, **values)
    with pytest.raises(ConfigError, match=message):
        products_of(settings)
    assert products_of(SHOP) is None


@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "sample.safetensors"])
def test_a_run_folder_that_lacks_a_file_says_which(name: str, run_folder: Path, tmp_path: Path) -> None:
    for path in run_folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=f"has no {name}; give the --out of `valuestream-model train`"):
        load_run(tmp_path)
