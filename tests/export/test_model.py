"""The network, its export, and that both are the same model to the last row."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from model_export import cli
from model_export.calibrate import calibrate, calibrated, fit_platt, predicted_value
from model_export.dataset import Dataset, Examples
from model_export.export import export, to_onnx
from model_export.fit import fit
from model_export.model import LOG_SIGMA_MAX, EventBert, ModelConfig
from model_export.run import FitConfig, Run, load_run, predict
from model_export.settings import settings
from model_export.train import train
from model_export.verify import verify
from stream.contract.manifest import Labels, Platt, read_manifest
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, FEATURES, LENGTHS
from stream.errors import ConfigError, ContractError
from stream.score import DEMO_MODEL, RawScores, Scorer

SMALL = ModelConfig(hidden=16, layers=1, heads=2, intermediate=32)
FLAGS = {
    "eligible_days": 20.0, "churn_days": 7.0, "purchase_days": (3.0, 10.0), "value_days": 10.0,
    "every_days": 5.0, "window_days": 6.0, "users": 150, "days": 60, "epochs": 1, "class_min": 5,
    "hidden": 16, "layers": 1,
}  # fmt: skip


def examples(n: int, seed: int = 0, longest: int = 64) -> Examples:
    """Random rows; who did type 7 last churns, and nothing else tells."""
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(1, size, (n, 64)) for size in CHANNEL_SIZES.values()], axis=2)
    lengths = rng.integers(1, longest + 1, n)
    tokens[:, :, 0] = rng.integers(2, 8, (n, 64))
    churn = tokens[np.arange(n), lengths - 1, 0] == 7
    tokens[np.arange(64) >= lengths[:, None]] = 0
    purchase = (rng.random((n, 2)) < 0.4).astype(np.float32)
    value = np.where(purchase[:, 1] > 0, rng.lognormal(3, 0.7, n), 0.0)
    zeros = np.zeros(n, np.int64)
    numeric = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    churned = churn.astype(np.float32)
    return Examples(
        tokens.astype(np.int16), numeric, churned, purchase, value, zeros, zeros, zeros, zeros.astype(bool)
    )  # fmt: skip


def data_set(n: int, longest: int = 64) -> Dataset:
    from collections import Counter

    return Dataset(*(examples(n, seed, longest) for seed in range(3)), names=[], span=(0, 1), left_out=Counter())


def network(seed: int = 0) -> EventBert:
    """A network whose every part speaks: nothing is left at its zero start."""
    torch.manual_seed(seed)
    out = EventBert(ModelConfig())
    with torch.no_grad():
        torch.nn.init.normal_(out.heads.weight, std=0.3)
        torch.nn.init.normal_(out.linear.weight, std=0.1)
    return out.eval()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(folder, "tiny", settings(data="simulator", seed=3, **FLAGS), Console(quiet=True))
    return folder


@pytest.fixture(scope="module")
def model_folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    export(run_folder, folder)
    return folder


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    yield onnxruntime.InferenceSession(to_onnx(network()), options, providers=["CPUExecutionProvider"])


def scores(session: object, tokens: np.ndarray, numeric: np.ndarray) -> np.ndarray:
    return np.column_stack(session.run(None, {"tokens": tokens.astype(np.int32), "features": numeric}))  # type: ignore[attr-defined]


# -- the network and its graph ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_row_scores_same_alone_and_in_batch(session: object, length: int) -> None:
    rows = examples(23, longest=length)
    tokens = rows.tokens[:, :length]
    together = scores(session, tokens, rows.features)
    for size in (1, 2, 3, 5, 8):
        parts = [scores(session, tokens[i : i + size], rows.features[i : i + size]) for i in range(0, 23, size)]
        # Equal to the bit where this was measured; other CPUs may have other kernels.
        assert np.abs(np.concatenate(parts) - together).max() <= 1e-6


def test_exported_graph_gives_what_torch_gives(session: object) -> None:
    rows = examples(200)
    raw = predict(network(), rows.tokens, rows.features)
    ours = scores(session, rows.tokens, rows.features)
    assert np.abs(ours - np.column_stack((raw.churn, raw.purchase, raw.value))).max() < 1e-5


def test_padding_changes_no_score(session: object) -> None:
    rows = examples(50, longest=8)
    short = scores(session, rows.tokens[:, :8], rows.features)
    assert np.abs(short - scores(session, rows.tokens, rows.features)).max() < 1e-5


def test_every_input_channel_and_feature_is_read(session: object) -> None:
    rows = examples(4)
    before = scores(session, rows.tokens, rows.features)
    for channel, (name, size) in enumerate(CHANNEL_SIZES.items()):
        tokens = rows.tokens.copy()
        tokens[:, 0, channel] = 1 + tokens[:, 0, channel] % (size - 1)
        assert (scores(session, tokens, rows.features) != before).any(), name
    for f, name in enumerate(FEATURES):
        numeric = rows.features.copy()
        numeric[:, f] += 1
        assert (scores(session, rows.tokens, numeric) != before).any(), name


def test_order_of_events_matters_and_position_counts_from_the_newest(session: object) -> None:
    rows = examples(20, longest=10)
    lengths = (rows.tokens[:, :, 0] > 0).sum(axis=1)
    turned = rows.tokens.copy()
    for row, n in zip(turned, lengths.tolist(), strict=True):
        row[:n] = row[:n][::-1]
    long = lengths > 2
    assert (
        (scores(session, turned, rows.features) != scores(session, rows.tokens, rows.features))[long].any(axis=1).all()
    )


def test_log_sigma_stays_below_its_bound_for_any_input(session: object) -> None:
    rows = examples(100)
    for factor in (1e-3, 1.0, 1e6):
        found = scores(session, rows.tokens, rows.features * np.float32(factor))
        assert np.isfinite(found).all()
        assert found[:, -1].max() <= np.float32(LOG_SIGMA_MAX)


def test_exported_graph_tells_nothing_of_the_machine_and_is_the_same_twice() -> None:
    first, second = to_onnx(network()), to_onnx(network())
    assert first == second
    for text in (b"site-packages", b"/work", b"/home", b"model_export"):
        assert text not in first


# -- fitting ----------------------------------------------------------------------------------------------


def test_same_seed_gives_same_weights_and_another_seed_others() -> None:
    data = data_set(300, longest=16)
    networks = [
        fit(data, SMALL, FitConfig(seed=seed, epochs=1, batch_size=64), Progress(disable=True)).network.state_dict()
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    assert not all(torch.equal(networks[0][name], networks[2][name]) for name in networks[0])


def test_network_learns_what_only_the_order_of_events_tells() -> None:
    data = data_set(2_000, longest=8)
    fitted = fit(
        data, SMALL, FitConfig(epochs=8, batch_size=64, learning_rate=3e-3, patience=8), Progress(disable=True)
    )
    test = data.test
    linear = LogisticRegression(max_iter=500).fit(data.train.features, data.train.churn)
    assert roc_auc_score(test.churn, linear.decision_function(test.features)) < 0.6
    assert roc_auc_score(test.churn, predict(fitted.network, test.tokens, test.features).churn) > 0.9
    assert fitted.best_epoch > 0


# -- calibration ------------------------------------------------------------------------------------------


def test_platt_scaling_finds_the_slope_and_intercept_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 50_000)
    labels = (rng.random(50_000) < calibrated(logits, Platt(0.6, -0.8))).astype(np.float32)
    found = fit_platt(logits, labels)
    assert found.slope == pytest.approx(0.6, abs=0.03)
    assert found.intercept == pytest.approx(-0.8, abs=0.05)


def test_value_factor_removes_the_total_bias_on_the_window_it_was_fitted_on() -> None:
    rows = examples(3_000)
    labels = Labels(45, 14, (7, 30), 30)
    noise = np.random.default_rng(1).normal(0, 1, rows.purchase.shape)
    raw = RawScores(rows.churn + noise[:, 0], 2 * rows.purchase + noise, np.full((3_000, 2), 1.0))
    calibration = calibrate(raw, rows, labels)
    assert predicted_value(raw, calibration, labels).sum() == pytest.approx(rows.value.sum(), rel=1e-4)
    with pytest.raises(ConfigError, match="churn: the trained model ranks worse than chance"):
        calibrate(RawScores(-raw.churn, raw.purchase, raw.value), rows, labels)


# -- train, export, verify --------------------------------------------------------------------------------


def test_a_run_exports_to_a_folder_that_serves_and_that_verify_passes(run_folder: Path, model_folder: Path) -> None:
    scorer = Scorer(model_folder)
    run = msgspec.json.decode((run_folder / "run.json").read_bytes(), type=Run)
    manifest = scorer.manifest
    assert manifest.labels == Labels(20, 7, (3, 10), 10)
    assert manifest.calibration == run.calibration
    assert manifest.currency == "USD"
    assert set(run.metrics) >= {"event_bert", "recency", "logistic"}
    assert manifest.metrics["logistic.churn.auc"] == run.metrics["logistic"]["churn.auc"]
    assert len((model_folder / "golden.jsonl").read_text().splitlines()) == 16
    parity = verify(model_folder, run_folder)
    assert parity.rows > 100
    assert parity.error < 1e-5


def test_the_same_run_exports_the_same_bytes(run_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    export(run_folder, tmp_path / "again")
    names = sorted(p.name for p in model_folder.iterdir())
    assert names == ["README.md", "golden.jsonl", "manifest.json", "model.onnx"]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (model_folder / name).read_bytes()


def test_the_run_folder_holds_no_pickle_and_no_path(run_folder: Path) -> None:
    assert sorted(p.name for p in run_folder.iterdir()) == ["run.json", "sample.safetensors", "weights.safetensors"]
    assert str(Path.cwd()) not in (run_folder / "run.json").read_text()


def test_verify_refuses_a_model_of_other_weights(run_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run_folder, other)
    _, changed, _, _ = load_run(run_folder)
    with torch.no_grad():
        changed.heads.bias.add_(0.5)
    from safetensors.torch import save_file

    save_file(changed.state_dict(), other / "weights.safetensors")
    with pytest.raises(ContractError, match="was exported from weights"):
        verify(model_folder, other)


def test_export_replaces_its_own_folder_and_no_other(run_folder: Path, tmp_path: Path) -> None:
    export(run_folder, tmp_path / "model")
    export(run_folder, tmp_path / "model", sufficient_events=9)
    assert read_manifest(tmp_path / "model")[0].sufficient_events == 9
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"exists and holds no manifest.json, so it is not replaced"):
        export(run_folder, tmp_path / "precious")
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_training_refuses_too_few_examples_of_a_class_with_both_counts(tmp_path: Path) -> None:
    few = settings(data="simulator", seed=3, **{**FLAGS, "users": 20, "class_min": 200})
    with pytest.raises(ConfigError, match=r"train window has \d+ examples with churn = yes, expected at least 200"):
        train(tmp_path / "run", "tiny", few, Console(quiet=True))
    assert not (tmp_path / "run").exists()


# -- command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "missing.parquet", "--out", "r"], "data is 'missing.parquet', which is no file"),
        (["train", "--data", "simulator", "--out", "r", "--value-days", "9"], "--value-days is 9, expected one of"),
        (["train", "--data", "simulator", "--out", "r", "--hidden", "30"], "--hidden is 30, expected a multiple of 4"),
        (["train", "--data", "simulator", "--out", "r", "--days", "60", "--users", "5"], "data spans"),
        (["export", "missing", "--out", "m"], "run folder missing has no run.json"),
        (["export", "missing", "--out", "m", "--high", "0.3"], "--medium is 0.4, expected less than --high 0.3"),
        (["verify", "missing", "--run", "missing"], "run folder missing has no run.json"),
    ],
)
def test_what_cannot_work_ends_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["valuestream-model", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 1
    assert error.startswith("valuestream-model: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("days", ["0", "7,-1", "seven", ""])
def test_purchase_days_that_are_no_days_are_refused(days: str) -> None:
    result = CliRunner().invoke(cli.cli, ["train", "--data", "simulator", "--out", "r", "--purchase-days", days])
    assert result.exit_code == 2
    assert "expected days above 0" in result.output


def test_verify_says_what_it_compared(run_folder: Path, model_folder: Path) -> None:
    result = CliRunner().invoke(cli.cli, ["verify", str(model_folder), "--run", str(run_folder)])
    assert result.exit_code == 0
    assert "agrees on" in result.output


# -- the shipped model ------------------------------------------------------------------------------------


def test_the_shipped_demo_model_loads_is_small_and_knows_its_metrics() -> None:
    manifest = Scorer(DEMO_MODEL).manifest
    assert manifest.labels == Labels(45, 14, (7, 30), 30)
    assert sum(p.stat().st_size for p in DEMO_MODEL.iterdir()) < 3_000_000
    for head in ("churn", "purchase_7d", "purchase_30d"):
        assert manifest.metrics[f"event_bert.{head}.auc"] > manifest.metrics[f"recency.{head}.auc"]
        assert manifest.metrics[f"event_bert.{head}.ece"] < 0.05
    assert set(CHANNELS) == set(manifest.channel_sizes)
