"""Tests of model folders from a stranger: no altered, unsigned or outside file is served."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from onnx import TensorProto, helper

from model_export.cli import cli
from stream.contract import files
from stream.contract.manifest import MANIFEST_FILE, MODEL_FILE
from stream.errors import ConfigError, ContractError, ValuestreamError
from stream.score.external_data import FIELDS, check_self_contained
from stream.score.scorer import DEMO_MODEL, Scorer
from stream.score.session import open_session
from stream.score.signature import verifier
from tests.broker.command import assert_one_line, valuestream

SIGNATURE = "manifest.sig"
Graph = Callable[[Any], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model that a test may damage."""
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Write the hashes of the present files into the manifest, as anybody with write access to the folder can."""
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_bytes()) | changes
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["files"]}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def put_model(folder: Path, change: Graph) -> None:
    model = onnx.load_model(folder / MODEL_FILE)
    change(model)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())
    rewrite(folder)


def refused(call: Callable[[], object], error: type[ValuestreamError], *says: str) -> None:
    """The call fails with one line that holds all of these texts."""
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)


# Files ------------------------------------------------------------------------------------------------


def test_manifest_lists_every_file_of_the_shipped_folder() -> None:
    listed = json.loads((DEMO_MODEL / MANIFEST_FILE).read_bytes())["files"].keys()
    assert {path.name for path in DEMO_MODEL.iterdir()} - {MANIFEST_FILE, SIGNATURE} == set(listed)


def test_link_out_of_the_folder_is_refused_even_if_the_hash_is_right(folder: Path) -> None:
    (folder / MODEL_FILE).rename(folder.parent / "elsewhere")
    (folder / MODEL_FILE).symlink_to(folder.parent / "elsewhere")
    refused(lambda: Scorer(folder), ContractError, MODEL_FILE, "is a link out of its folder")


def test_links_inside_the_folder_work_as_kubernetes_mounts_them(folder: Path) -> None:
    (folder / "..data").mkdir()
    for path in [p for p in folder.iterdir() if p.is_file()]:
        path.rename(folder / "..data" / path.name)
        path.symlink_to(Path("..data") / path.name)
    (folder.parent / "current").symlink_to(folder)
    assert Scorer(folder.parent / "current").manifest.version


def test_file_larger_than_any_model_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 1_000)
    refused(lambda: Scorer(folder), ContractError, "is larger than 1,000 bytes")


def test_manifest_larger_than_any_manifest_is_refused(folder: Path) -> None:
    with (folder / MANIFEST_FILE).open("ab") as file:
        file.write(b" " * 5 * 1024**2)
    refused(lambda: Scorer(folder), ContractError, MANIFEST_FILE, "is larger than 4,194,304 bytes")


def test_file_that_changes_after_it_was_checked_is_not_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime gets the very bytes that were hashed, so nobody can exchange the file in between."""
    handed_over = []

    def spy(path: Path, graph: bytes, *how: Any) -> Any:
        handed_over.append(hashlib.sha256(graph).hexdigest())
        (folder / MODEL_FILE).write_bytes(b"slipped in")
        return open_session(path, graph, *how)

    monkeypatch.setattr("stream.score.scorer.open_session", spy)
    scorer = Scorer(folder)
    assert handed_over == [scorer.manifest.files[MODEL_FILE]]


# Graphs -----------------------------------------------------------------------------------------------


def outside(location: str) -> Any:
    """A tensor with four numbers in another file."""
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(tensor: Any) -> Any:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def nested(model: Any) -> None:
    """Put such a tensor two subgraphs deep."""
    inner = helper.make_graph([constant(outside("x"))], "inner", [], [])
    middle = helper.make_graph([helper.make_node("If", ["b"], [], then_branch=inner, else_branch=inner)], "m", [], [])
    model.graph.node.append(helper.make_node("If", ["b"], [], then_branch=middle, else_branch=middle))


def in_function(model: Any) -> None:
    opset = helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("own", "f", [], ["c"], [constant(outside("x"))], [opset]))


def without_location(model: Any) -> None:
    """Name a file, but do not say that the numbers are there."""
    tensor = outside("x")
    tensor.ClearField("data_location")
    model.graph.initializer.append(tensor)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.initializer.append(outside("../../../../../../etc/passwd")),
        lambda m: m.graph.initializer.append(outside("/etc/passwd")),
        lambda m: m.graph.initializer.append(outside("README.md")),
        lambda m: m.graph.node.append(constant(outside("x"))),
        lambda m: m.graph.sparse_initializer.add().values.CopyFrom(outside("x")),
        nested,
        in_function,
        without_location,
    ],
    ids=["upwards", "absolute", "beside", "constant", "sparse", "nested", "function", "without location"],
)
def test_numbers_in_another_file_are_refused_before_onnxruntime_can_open_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Graph
) -> None:
    put_model(folder, change)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("onnxruntime got it"))
    refused(lambda: Scorer(folder), ContractError, MODEL_FILE, "external data", "do not serve it")


def test_onnxruntime_itself_opens_no_file_that_a_model_in_memory_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the second line of defence, in case our check has forgotten a place for tensors."""
    (tmp_path / "numbers").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "outside"], ["y"])], "g", [x], [y], [outside("numbers")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    monkeypatch.setattr("stream.score.session.check_self_contained", lambda *_: None)
    for location in ("numbers", "../numbers", str(tmp_path / "numbers")):
        model.graph.initializer[0].external_data[0].value = location
        data = model.SerializeToString()
        refused(lambda data=data: open_session(Path("m"), data, "cpu", 1), ContractError, "cannot be loaded")


def test_our_check_knows_every_place_for_tensors_in_the_onnx_format() -> None:
    """onnx's own description of its format is the oracle. A release that adds a place for tensors fails here."""
    messages = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
    leading = {"TensorProto"}
    for _ in messages:
        leading |= {
            n for n, m in messages.items() if any(f.message_type and f.message_type.name in leading for f in m.fields)
        }
    for name in leading - {"TensorProto"}:
        fields = [f for f in messages[name].fields if f.message_type and f.message_type.name in leading]
        assert FIELDS[name] == {f.name: (f.number, f.message_type.name) for f in fields}


def test_shipped_models_are_self_contained() -> None:
    for path in DEMO_MODEL.glob("*.onnx"):
        check_self_contained(path, path.read_bytes())


def test_operation_that_onnxruntime_does_not_know_is_refused(folder: Path) -> None:
    def change(model: Any) -> None:
        model.opset_import.append(helper.make_opsetid("stranger", 1))
        model.graph.node.append(helper.make_node("RunThis", ["features"], ["out"], domain="stranger"))
        model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, None))

    put_model(folder, change)
    refused(lambda: Scorer(folder), ContractError, "cannot be loaded", "stranger:RunThis")


def test_model_that_needs_more_memory_than_the_machine_has_is_refused(folder: Path) -> None:
    """A few bytes can ask for four terabytes. The golden cases notice that before anything is served."""

    def change(model: Any) -> None:
        (first,) = [node for node in model.graph.node if "churn" in node.output]
        first.output[list(first.output).index("churn")] = "small"
        shape = helper.make_tensor("shape", TensorProto.INT64, [1], [2**40])
        model.graph.initializer.append(shape)
        model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["huge"]))
        model.graph.node.append(helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0))
        model.graph.node.append(helper.make_node("Add", ["small", "most"], ["churn"]))

    put_model(folder, change)
    refused(lambda: Scorer(folder), ValuestreamError, "could not be run")


@pytest.mark.parametrize("data", [b"", b"ORTM" * 10, b"\x08" * 40, b"\x3a\xff\xff\xff\xff\x0f"])
def test_bytes_that_are_no_model_are_refused(folder: Path, data: bytes) -> None:
    (folder / MODEL_FILE).write_bytes(data)
    rewrite(folder)
    refused(lambda: Scorer(folder), ContractError, MODEL_FILE, "cannot be loaded")


# Signatures -------------------------------------------------------------------------------------------


def write_private(path: Path, key: Any) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def write_public(path: Path, key: Any) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Private and public key in PEM."""
    key = Ed25519PrivateKey.generate()
    return write_private(tmp_path / "model.key", key), write_public(tmp_path / "model.pub", key)


def sign(folder: Path, key: Path) -> None:
    done = CliRunner().invoke(cli, ["sign", str(folder), "--key", str(key)], catch_exceptions=False)
    assert done.output == f"wrote {folder / SIGNATURE}\n"


def test_signed_folder_is_served_and_without_a_key_signatures_do_not_matter(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    sign(folder, keys[0])
    assert Scorer(folder, verify=verifier(keys[1])).sha256 == Scorer(DEMO_MODEL).sha256
    (folder / SIGNATURE).write_bytes(b"nonsense")
    assert Scorer(folder, verify=verifier(None)).sha256 == Scorer(DEMO_MODEL).sha256


def test_unsigned_folder_is_refused_if_a_key_is_set(folder: Path, keys: tuple[Path, Path]) -> None:
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "is not signed", SIGNATURE)


def test_altered_folder_with_matching_hashes_is_refused_by_its_signature(folder: Path, keys: tuple[Path, Path]) -> None:
    sign(folder, keys[0])
    rewrite(folder, version="forged")
    Scorer(folder)
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "was not signed with the key")


@pytest.mark.parametrize("spoil", [lambda s: s[:-1], lambda s: s + b"\n", lambda s: b"", lambda s: s[::-1]])
def test_spoiled_signature_is_refused(folder: Path, keys: tuple[Path, Path], spoil: Callable[[bytes], bytes]) -> None:
    sign(folder, keys[0])
    (folder / SIGNATURE).write_bytes(spoil((folder / SIGNATURE).read_bytes()))
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "was not signed with the key")


def test_signature_of_another_key_is_refused(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    sign(folder, write_private(tmp_path / "other.key", Ed25519PrivateKey.generate()))
    refused(lambda: Scorer(folder, verify=verifier(keys[1])), ContractError, "was not signed with the key")


def test_public_key_that_cannot_be_used_is_refused_at_start(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    other = write_public(tmp_path / "ec.pub", generate_private_key(SECP256R1()))
    refused(lambda: verifier(other), ConfigError, "is of another kind", "--model-public-key")
    for path in (tmp_path / "none.pub", keys[0]):
        refused(lambda path=path: verifier(path), ConfigError, str(path), "cannot be read", "--model-public-key")


def test_sign_refuses_an_unusable_key_in_one_line(folder: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    ec = write_private(tmp_path / "ec.key", generate_private_key(SECP256R1()))
    for path in (ec, keys[1], tmp_path / "none.key"):
        done = CliRunner().invoke(cli, ["sign", str(folder), "--key", str(path)])
        assert isinstance(done.exception, ConfigError)
        assert "expected an Ed25519 key in PEM" in str(done.exception)


def test_only_a_key_needs_cryptography_and_without_it_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, keys: tuple[Path, Path]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    refused(lambda: verifier(keys[1]), ConfigError, "pip install 'valuestream[signed]'")
    verifier(None)


def test_worker_refuses_an_unsigned_model_before_it_connects_to_a_broker(folder: Path, keys: tuple[Path, Path]) -> None:
    ended = valuestream("worker", "--model-dir", folder, "--model-public-key", keys[1])
    assert_one_line(ended, f"valuestream: {folder / MANIFEST_FILE} is not signed")
