"""Export and verify: every number format is the trained network, a row scores the same alone, the graph is fused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from safetensors.numpy import load_file, save_file

from model_export.export.export import export, to_onnx
from model_export.export.variants import ALONE_MAX, Fusions, fused, fusions, half, loss, outputs, quantised
from model_export.export.verify import BOUNDS, Parity, check, parity_table, verify
from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.run_folder import Run, Sample, load_run, save_run
from model_export.settings import Settings
from stream.contract.manifest import Calibration, Calibrator, HeadCalibration, Manifest, read_manifest
from stream.contract.tokens import CHANNEL_SIZES, FEATURES
from stream.errors import ConfigError, ContractError
from stream.score.scorer import Scorer
from stream.score.signature import verifier

CONFIG = ModelConfig(hidden=16, layers=2, heads=2)
CATEGORIES = ("shoes", "hats", "socks")
N = 96


def network(seed: int = 0, categories: int = len(CATEGORIES)) -> EventBert:
    """A network whose every part speaks: nothing is left at its zero start."""
    torch.manual_seed(seed)
    out = EventBert(CONFIG, Shape(purchase_heads=2, categories=categories))
    with torch.no_grad():
        for name, weights in out.named_parameters():
            if name.startswith(("heads", "linear", "category")):
                torch.nn.init.normal_(weights, std=0.3)
            elif weights.dim() == 1:
                weights.add_(0.1 * torch.randn_like(weights))
            else:
                weights.mul_(3.0)
    return out.eval()


def sample(n: int = N, seed: int = 0) -> Sample:
    """Random rows sorted by history length, and labels of both classes."""
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(1, size, (n, 64)) for size in CHANNEL_SIZES.values()], axis=2)
    tokens[np.arange(64) >= np.sort(rng.integers(1, 65, n))[:, None]] = 0
    numbers = rng.normal(size=(n, len(FEATURES))).astype(np.float32)
    buys = (rng.random((n, 2)) < 0.4).astype(np.float32)
    churns = (rng.random(n) < 0.5).astype(np.float32)
    return Sample(tokens.astype(np.uint16), numbers, churns, buys, buys[:, 1] * 20.0)


def write_run(folder: Path, trained: EventBert, rows: Sample, categories: tuple[str, ...] = CATEGORIES) -> Path:
    head = HeadCalibration(Calibrator(), Calibrator())
    counts = dict.fromkeys(("train", "validation", "recent", "test", "users", "epochs", "best epoch"), 1)
    run = Run(
        settings=msgspec.structs.replace(Settings(), model=CONFIG),
        shape=Shape(purchase_heads=2, categories=len(categories)),
        calibration=Calibration(head, (head, head)),
        categories=categories,
        currency="USD",
        trained_on=("2024-01-01T00:00:00Z", "2024-06-01T00:00:00Z"),
        counts=counts,
        metrics={"event_bert": {"churn.auc": 0.7}},
    )
    save_run(folder, run, trained, rows)
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", network(), sample())


@pytest.fixture(scope="module")
def model_folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    export(run_folder, folder)
    return folder


@pytest.fixture(scope="module")
def parities(model_folder: Path, run_folder: Path) -> tuple[Parity, ...]:
    return verify(model_folder, run_folder)


@pytest.fixture(scope="module")
def plain() -> bytes:
    return to_onnx(network())


@pytest.fixture(scope="module")
def graph(plain: bytes) -> bytes:
    return fused(plain, CONFIG.heads, CONFIG.hidden)


# -- the graphs -------------------------------------------------------------------------------------------


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


def test_the_kept_int8_scores_a_row_the_same_alone_and_dynamic_ranges_do_not(graph: bytes) -> None:
    rows = sample()
    found = quantised(graph, rows.tokens, rows.features)
    assert set(found.losses) == {"static", "dynamic"}
    assert found.losses[found.kind].alone <= ALONE_MAX
    # Why the choice is not left to the loss alone.
    assert found.losses["dynamic"].alone > 100 * ALONE_MAX


def test_int8_does_not_cut_features_beyond_the_calibration_rows(graph: bytes) -> None:
    rows = sample()
    int8 = quantised(graph, rows.tokens, rows.features).graph
    beyond = rows.features * np.float32(5)
    lost = loss(int8, outputs(graph, rows.tokens, beyond), rows.tokens, beyond)
    assert lost.error < BOUNDS["int8"].error
    assert lost.spearman > BOUNDS["int8"].spearman


def test_int8_does_not_cut_histories_shorter_than_the_calibration_rows(graph: bytes) -> None:
    rows = sample()
    long = (rows.tokens[:, :, 0] > 0).sum(axis=1) > 8
    int8 = quantised(graph, rows.tokens[long], rows.features[long]).graph
    rows.tokens[:, 1:] = 0
    lost = loss(int8, outputs(graph, rows.tokens, rows.features), rows.tokens, rows.features)
    assert lost.error < 0.2


def test_compressed_graphs_are_smaller_and_the_same_bytes_twice(graph: bytes) -> None:
    rows = sample()
    makers: list[Callable[[], bytes]] = [
        lambda: half(graph),
        lambda: quantised(graph, rows.tokens, rows.features).graph,
    ]
    for make in makers:
        first = make()
        assert first == make()
        assert len(first) < 0.7 * len(graph)
        for text in (b"site-packages", b"/tmp", b"/home"):
            assert text not in first


# -- export -----------------------------------------------------------------------------------------------


def test_each_variant_of_the_folder_serves_and_is_near_fp32(model_folder: Path) -> None:
    rows = sample(seed=5)
    raw = {v: Scorer(model_folder, variant=v).run(rows.tokens.astype(np.int32), rows.features) for v in BOUNDS}
    for variant, found in raw.items():
        assert found.category.shape == (N, len(CATEGORIES))
        for name in ("churn", "purchase", "value", "category"):
            difference = np.abs(getattr(found, name) - getattr(raw["fp32"], name)).max()
            assert difference <= BOUNDS[variant].error, (variant, name)
    assert (raw["int8"].churn != raw["fp32"].churn).any()
    assert (raw["fp16"].churn != raw["fp32"].churn).any()


def test_manifest_lists_every_file_and_what_explanations_and_categories_need(model_folder: Path) -> None:
    manifest = read_manifest(model_folder)[0]
    assert set(manifest.files) == {p.name for p in model_folder.iterdir()} - {"manifest.json"}
    assert manifest.variants == {"fp32": "model.onnx", "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}
    assert manifest.categories == CATEGORIES
    assert manifest.typical == pytest.approx(np.median(sample().features, axis=0))
    assert (manifest.bands, manifest.sufficient_events) == ((0.4, 0.7), 5)
    assert manifest.recipe["labels.purchase_days"] == "7,30"
    assert {"loss.int8 static.error", "loss.int8 dynamic.alone", "loss.fp16.spearman"} <= set(manifest.recipe)


def test_card_tells_sizes_and_losses_of_all_that_was_tried(model_folder: Path) -> None:
    card = (model_folder / "README.md").read_text(encoding="utf-8")
    for line in ("| fp32 |", "| fp16 |", "| int8 static |", "| int8 dynamic | not shipped |"):
        assert line in card


def test_the_same_run_exports_the_same_bytes(run_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    export(run_folder, tmp_path / "again")
    assert {p.name for p in (tmp_path / "again").iterdir()} == {p.name for p in model_folder.iterdir()}
    for path in model_folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_variant_that_was_not_exported_is_refused_with_those_there(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", network(categories=0), sample(), categories=())
    manifest = export(run, tmp_path / "model", variants=("fp32",), bands=(0.2, 0.5), sufficient_events=9)
    assert (manifest.bands, manifest.sufficient_events, manifest.variants) == ((0.2, 0.5), 9, {"fp32": "model.onnx"})
    assert Scorer(tmp_path / "model").run(sample(8).tokens.astype(np.int32), sample(8).features).category.shape == (
        8,
        0,
    )
    with pytest.raises(ConfigError, match="has no variant 'int8', it has fp32; choose one of them"):
        Scorer(tmp_path / "model", variant="int8")


def test_a_graph_whose_outputs_are_not_the_trained_ones_is_not_written(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_export.export.export.to_onnx", lambda *_: to_onnx(network(seed=1)))
    with pytest.raises(ContractError, match=r"golden.jsonl: outputs differ from the golden cases"):
        export(run_folder, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_export_with_a_key_writes_a_folder_that_workers_take_by_its_signature(run_folder: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    export(run_folder, tmp_path / "model", variants=("fp32",), sign_key=tmp_path / "key")
    assert Scorer(tmp_path / "model", verify=verifier(tmp_path / "pub")).manifest.version


def test_export_replaces_its_own_folder_and_no_other(run_folder: Path, tmp_path: Path) -> None:
    export(run_folder, tmp_path / "model", variants=("fp32",))
    export(run_folder, tmp_path / "model", variants=("fp32",), sufficient_events=9)
    assert read_manifest(tmp_path / "model")[0].sufficient_events == 9
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"exists and holds no manifest.json, so it is not replaced"):
        export(run_folder, tmp_path / "precious", variants=("fp32",))
    assert (tmp_path / "precious" / "file").read_text() == "mine"


# -- verify -----------------------------------------------------------------------------------------------


def test_verify_measures_every_variant_on_every_row(parities: tuple[Parity, ...]) -> None:
    fp32, fp16, int8 = parities
    assert [p.variant for p in parities] == ["fp32", "fp16", "int8"]
    assert {p.rows for p in parities} == {N}
    assert fp32.error < 1e-5 < fp16.error < int8.error
    assert fp16.size < fp32.size > int8.size
    for parity in parities:
        assert parity.alone <= ALONE_MAX
        assert parity.auc_loss is not None
        assert (parity.fusions.attention, parity.fusions.norms) == (2, 5)
    assert all(p.variant in parity_table(parities) for p in parities)


def replaced_model(model_folder: Path, folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of the model folder with another fp32 graph, signed anew."""
    shutil.copytree(model_folder, folder)
    data = change((folder / "model.onnx").read_bytes())
    (folder / "model.onnx").write_bytes(data)
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    files = {**manifest.files, "model.onnx": hashlib.sha256(data).hexdigest()}
    changed = msgspec.structs.replace(manifest, files=files)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(changed))
    return folder


def test_verify_refuses_a_graph_that_is_not_fused(
    model_folder: Path, run_folder: Path, plain: bytes, tmp_path: Path
) -> None:
    folder = replaced_model(model_folder, tmp_path / "model", lambda _: plain)
    with pytest.raises(ContractError, match=r"count of fused attention nodes is 0, expected exactly 2; export the"):
        verify(folder, run_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"error": 2e-4}, r"largest error in logits is 0.0002, expected at most 0.0001"),
        ({"spearman": 0.99}, r"worst rank correlation is 0.99, expected at least 0.9999"),
        ({"auc_loss": 0.01}, r"difference in AUC is 0.01, expected at most 0.0005"),
        ({"alone": 1e-5}, r"difference of a row alone is 1e-05, expected at most 1e-06"),
        ({"fusions": Fusions(attention=2, norms=0)}, r"count of fused layer norms is 0, expected exactly 5"),
    ],
)
def test_verify_refuses_what_is_beyond_a_bound(
    parities: tuple[Parity, ...], change: dict[str, object], message: str
) -> None:
    check(Path("model.onnx"), parities[0], layers=2)
    with pytest.raises(ContractError, match=f"model.onnx: {message}; export the model again"):
        check(Path("model.onnx"), replace(parities[0], **change), layers=2)  # type: ignore[arg-type]


def test_verify_says_nothing_of_auc_where_no_label_has_both_classes(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    arrays = load_file(tmp_path / "run" / "sample.safetensors")
    arrays["churn"][:], arrays["purchase"][:] = 0, 1
    save_file(arrays, tmp_path / "run" / "sample.safetensors")
    export(tmp_path / "run", tmp_path / "model", variants=("fp32",))
    (parity,) = verify(tmp_path / "model", tmp_path / "run")
    assert parity.auc_loss is None
    assert "–" in parity_table([parity])


def test_verify_refuses_a_model_of_other_weights(run_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    _, changed, rows, _ = load_run(run_folder)
    with torch.no_grad():
        changed.heads.bias.add_(0.5)
    with pytest.raises(ContractError, match="was exported from weights"):
        verify(model_folder, write_run(tmp_path / "run", changed, rows))
