"""Export: the model folder serves, its variants are near fp32, and the same run gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from model_export.export.export import export, to_onnx
from model_export.export.verify import TOLERANCES
from stream.contract.manifest import read_manifest
from stream.errors import ConfigError, ContractError
from stream.score.scorer import Scorer
from stream.score.signature import verifier
from tests.model_export.small_run import CATEGORIES, N, network, sample, write_run


def test_each_variant_of_the_folder_serves_and_is_near_fp32(model_folder: Path) -> None:
    rows = sample(seed=5)
    raw = {v: Scorer(model_folder, variant=v).run(rows.tokens.astype(np.int32), rows.features) for v in TOLERANCES}
    for variant, scores in raw.items():
        assert scores.category.shape == (N, len(CATEGORIES))
        for name in ("churn", "purchase", "value", "category"):
            difference = np.abs(getattr(scores, name) - getattr(raw["fp32"], name)).max()
            assert difference <= TOLERANCES[variant].error, (variant, name)
    assert (raw["int8"].churn != raw["fp32"].churn).any()
    assert (raw["fp16"].churn != raw["fp32"].churn).any()


def test_manifest_lists_every_file_and_holds_what_reasons_and_categories_need(model_folder: Path) -> None:
    manifest = read_manifest(model_folder)[0]
    assert set(manifest.files) == {p.name for p in model_folder.iterdir()} - {"manifest.json"}
    assert manifest.variants == {"fp32": "model.onnx", "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}
    assert manifest.categories == CATEGORIES
    assert manifest.typical == pytest.approx(np.median(sample().features, axis=0))
    assert (manifest.bands, manifest.sufficient_events) == ((0.4, 0.7), 5)
    assert manifest.recipe["labels.purchase_days"] == "7,30"
    assert {"loss.int8 static.error", "loss.int8 dynamic.alone", "loss.fp16.spearman"} <= set(manifest.recipe)


def test_card_lists_size_and_loss_of_every_number_format_that_was_tried(model_folder: Path) -> None:
    card = (model_folder / "README.md").read_text(encoding="utf-8")
    for line in ("| fp32 |", "| fp16 |", "| int8 static |", "| int8 dynamic | not shipped |"):
        assert line in card


def test_the_same_run_exports_the_same_bytes(run_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    export(run_folder, tmp_path / "again")
    assert {p.name for p in (tmp_path / "again").iterdir()} == {p.name for p in model_folder.iterdir()}
    for path in model_folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_variant_that_was_not_exported_is_refused_with_those_that_were(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", network(categories=0), sample(), categories=())
    manifest = export(run, tmp_path / "model", variants=("fp32",), bands=(0.2, 0.5), sufficient_events=9)
    assert (manifest.bands, manifest.sufficient_events, manifest.variants) == ((0.2, 0.5), 9, {"fp32": "model.onnx"})
    assert Scorer(tmp_path / "model").run(sample(8).tokens.astype(np.int32), sample(8).features).category.shape == (
        8,
        0,
    )
    with pytest.raises(ConfigError, match="has no variant 'int8', it has fp32; choose one of them"):
        Scorer(tmp_path / "model", variant="int8")


def test_graph_with_other_outputs_than_the_network_is_not_written(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_export.export.export.to_onnx", lambda *_: to_onnx(network(seed=1)))
    with pytest.raises(ContractError, match=r"golden.jsonl: outputs differ from the golden cases"):
        export(run_folder, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_export_with_a_key_writes_a_folder_that_workers_accept_by_its_signature(
    run_folder: Path, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    export(run_folder, tmp_path / "model", variants=("fp32",), sign_key=tmp_path / "key")
    assert Scorer(tmp_path / "model", verify=verifier(tmp_path / "pub")).manifest.version


def test_export_replaces_a_model_folder_and_no_other(run_folder: Path, tmp_path: Path) -> None:
    export(run_folder, tmp_path / "model", variants=("fp32",))
    export(run_folder, tmp_path / "model", variants=("fp32",), sufficient_events=9)
    assert read_manifest(tmp_path / "model")[0].sufficient_events == 9
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"exists and holds no manifest.json, so it is not replaced"):
        export(run_folder, tmp_path / "precious", variants=("fp32",))
    assert (tmp_path / "precious" / "file").read_text() == "mine"
