"""Verify: every variant is compared on every row, and a variant beyond a tolerance is refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.numpy import load_file, save_file

from model_export.export.export import export
from model_export.export.precision_loss import ALONE_MAX
from model_export.export.verify import Fusions, Parity, check, parity_table, verify
from model_export.run_folder import load_run
from stream.contract.manifest import Manifest
from stream.errors import ContractError
from tests.model_export.small_run import N, write_run


@pytest.fixture(scope="module")
def parities(model_folder: Path, run_folder: Path) -> tuple[Parity, ...]:
    return verify(model_folder, run_folder)


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
def test_verify_refuses_a_measure_beyond_its_tolerance(
    parities: tuple[Parity, ...], change: dict[str, object], message: str
) -> None:
    check(Path("model.onnx"), parities[0], layers=2)
    with pytest.raises(ContractError, match=f"model.onnx: {message}; export the model again"):
        check(Path("model.onnx"), replace(parities[0], **change), layers=2)  # type: ignore[arg-type]


def test_verify_gives_no_auc_if_no_label_has_both_classes(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    arrays = load_file(tmp_path / "run" / "sample.safetensors")
    arrays["churn"][:], arrays["purchase"][:] = 0, 1
    save_file(arrays, tmp_path / "run" / "sample.safetensors")
    export(tmp_path / "run", tmp_path / "model", variants=("fp32",))
    (parity,) = verify(tmp_path / "model", tmp_path / "run")
    assert parity.auc_loss is None
    assert "–" in parity_table([parity])


def test_verify_refuses_a_model_made_from_other_weights(run_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    _, changed, rows, _ = load_run(run_folder)
    with torch.no_grad():
        changed.heads.bias.add_(0.5)
    with pytest.raises(ContractError, match="was exported from weights"):
        verify(model_folder, write_run(tmp_path / "run", changed, rows))
