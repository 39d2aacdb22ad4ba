"""A model folder is read only if it is whole, unaltered and of this version."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Calibration,
    Calibrator,
    HeadCalibration,
    Labels,
    Manifest,
    read_manifest,
)
from stream.errors import ConfigError, ContractError, ValuestreamError
from stream.score.scorer import DEMO_MODEL

FILES = {MODEL_FILE: b"a model", GOLDEN_FILE: b"golden cases"}
HEAD = HeadCalibration(
    Calibrator("isotonic", 1.1, -0.2, (-1.0, 0.1, 2.0), (0.1, 1 / 3, 0.9), 500), Calibrator("platt", 0.1, -2.0)
)
MANIFEST = Manifest(
    name="m",
    version="1",
    labels=Labels(eligible_days=45, churn_days=14, purchase_days=(7, 30), value_days=30),
    calibration=Calibration(churn=HEAD, purchase=(HEAD, HeadCalibration(Calibrator(), Calibrator(), (0.1, 0.5)))),
    currency="USD",
    bands=(0.4, 0.7),
    sufficient_events=5,
    trained_on=("2024-01-01T00:00:00Z", "2024-06-01T00:00:00Z"),
    recipe={"seed": 7},
    metrics={"auc": 0.9},
    files={name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()},
)

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def write(folder: Path, change: Change = lambda manifest: None) -> None:
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    manifest = json.loads(msgspec.json.encode(MANIFEST))
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")


def refused(folder: Path, error: type[ValuestreamError], *says: str) -> None:
    """Assert that the folder is refused with this error, in one line that holds all these texts."""
    with pytest.raises(error) as caught:
        read_manifest(folder)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


def test_manifest_reads_back_with_the_hash_of_its_bytes(folder: Path) -> None:
    manifest, sha256 = read_manifest(folder)
    assert manifest == MANIFEST
    assert sha256 == hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()


def test_shipped_model_is_a_valid_model_folder() -> None:
    manifest, sha256 = read_manifest(DEMO_MODEL)
    assert re.fullmatch("[0-9a-f]{64}", sha256)
    assert {MODEL_FILE, GOLDEN_FILE} <= manifest.files.keys()
    assert 0 < manifest.bands[0] < manifest.bands[1] < 1


def test_fields_of_a_later_release_are_ignored(folder: Path) -> None:
    write(folder, lambda m: m.update(new={"field": 1}))
    assert read_manifest(folder)[0] == MANIFEST


def test_folder_without_a_manifest_is_refused_with_what_to_give(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()
    for empty in (folder, folder / "no such folder", folder / MODEL_FILE):
        refused(empty, ConfigError, str(empty), "has no manifest.json; give --model-dir a folder written by")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, ConfigError, str(folder / name), "is missing; copy the whole folder again")
    (folder / name).mkdir()
    refused(folder, ConfigError, str(folder / name))


@pytest.mark.parametrize("name", FILES)
def test_altered_file_is_refused_by_name_with_both_hashes(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FILES[name] + b" ")
    altered = hashlib.sha256(FILES[name] + b" ").hexdigest()[:12]
    refused(folder, ContractError, str(folder / name), f"SHA-256 is {altered}…", f"says {MANIFEST.files[name][:12]}…")


@pytest.mark.parametrize("name", FILES)
def test_manifest_that_does_not_list_a_file_is_refused(folder: Path, name: str) -> None:
    write(folder, lambda m: m["files"].pop(name))
    refused(folder, ContractError, f"does not list {name}; export the model again")


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/hostname", "a/b", "./model.onnx", "sub/../model.onnx", "..", ".", "", "a\0b", "//"]
)
def test_manifest_that_names_a_file_outside_of_its_folder_is_refused(folder: Path, name: str) -> None:
    (folder / "inner").mkdir()
    inner = folder / "inner"
    write(inner, lambda m: m["files"].update({name: MANIFEST.files[MODEL_FILE]}))
    refused(inner, ContractError, repr(name), "expected names of files inside the folder")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(features_version=1), "features_version is 1, this build serves 2; train and export"),
        (lambda m: m.update(tokens_version=0), "tokens_version is 0, this build serves 2; train and export"),
        (lambda m: m.update(history_len=128), "history_len is 128, this build serves 64; train and export"),
        (lambda m: m["features"].reverse(), "features is another set, this build serves the contract's"),
        (lambda m: m["features"].pop(), "features is another set, this build serves the contract's"),
        (lambda m: m["channel_sizes"].update(age=49), "channel_sizes is another set, this build serves the contract's"),
        (lambda m: m["labels"].update(value_days=31), "labels.value_days is not one of purchase_days; export"),
        (lambda m: m["calibration"]["purchase"].pop(), "calibration.purchase does not match purchase_days; export"),
        (lambda m: m.update(bands=[0.7, 0.4]), "bands are (0.7, 0.4), expected 0 ≤ medium < high ≤ 1; export"),
        (lambda m: m.update(bands=[0.4, 1.5]), "bands are (0.4, 1.5), expected 0 ≤ medium < high ≤ 1; export"),
        (lambda m: m.update(variants={"int8": GOLDEN_FILE}), "variants are ['int8'], expected fp32 among them; export"),
        (lambda m: m["variants"].update(fp16="half.onnx"), "does not list half.onnx; export the model again"),
    ],
)
def test_manifest_of_another_contract_is_refused_with_found_and_expected(
    folder: Path, change: Change, says: str
) -> None:
    write(folder, change)
    refused(folder, ContractError, str(folder / MANIFEST_FILE), says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"logits": [-1.0, 0.1]}, "calibrator isotonic has knots 2 × 3, expected pairs in strictly ascending order"),
        ({"logits": [-1.0, 0.1, 0.1]}, "calibrator isotonic has knots 3 × 3, expected pairs in strictly ascending"),
        ({"probabilities": [0.1, 0.9, 0.5]}, "calibrator isotonic has knots 3 × 3, expected pairs"),
        ({"logits": [], "probabilities": []}, "calibrator isotonic has knots 0 × 0, expected pairs"),
        ({"method": "platt"}, "calibrator platt has knots 3 × 3, expected pairs in strictly ascending order for"),
        ({"slope": -0.5}, "a calibrator's slope is -0.5, expected at least 0; export the model again"),
        ({"probabilities": [0.0, 0.5, 0.9]}, "Expected `float` > 0.0"),
    ],
)
@pytest.mark.parametrize("cohort", ["enough", "few"])
def test_calibrator_that_would_not_keep_the_ranking_is_refused(
    folder: Path, change: dict[str, Any], says: str, cohort: str
) -> None:
    spoiled = {**json.loads(msgspec.json.encode(HEAD.enough)), **change}
    for change_head in (
        lambda m: m["calibration"]["churn"].update({cohort: spoiled}),
        lambda m: m["calibration"]["purchase"][1].update({cohort: spoiled}),
    ):
        write(folder, change_head)
        refused(folder, ContractError, str(folder / MANIFEST_FILE), says)


def test_manifest_of_the_first_release_is_refused_by_its_version_not_by_its_shape(folder: Path) -> None:
    first = {"churn": {"slope": 1.0, "intercept": 0.0}, "purchase": [{"slope": 1.0, "intercept": 0.0}] * 2}
    write(folder, lambda m: m.update(features_version=1, calibration=first))
    refused(folder, ContractError, "features_version is 1, this build serves 2; train and export the model again")


def test_manifest_without_the_fields_of_this_release_has_one_variant_and_no_categories(folder: Path) -> None:
    write(folder, lambda m: [m.pop(name) for name in ("variants", "categories", "typical")])
    manifest, _ = read_manifest(folder)
    assert manifest.variants == {"fp32": MODEL_FILE}
    assert (manifest.categories, manifest.typical) == ((), ())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.pop("labels"), "missing required field `labels`"),
        (lambda m: m.update(bands=[0.4]), "`$.bands`"),
        (lambda m: m["labels"].update(churn_days="14"), "`$.labels.churn_days`"),
        (lambda m: m["files"].update({MODEL_FILE: None}), "`$.files"),
    ],
)
def test_manifest_with_a_wrong_field_is_refused_by_its_name(folder: Path, change: Change, says: str) -> None:
    write(folder, change)
    refused(folder, ContractError, str(folder / MANIFEST_FILE), "cannot be read", says, "export the model again")


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.just(b"[" * 50_000), st.just(b'{"recipe":' * 50_000)))
def test_manifest_of_any_bytes_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-bytes"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_FILE).write_bytes(data)
    refused(folder, ContractError, "cannot be read", "export the model again")
