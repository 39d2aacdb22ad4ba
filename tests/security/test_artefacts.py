"""Tests of model folders from a stranger: no altered file, outside file or hostile graph is served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stream.contract import files
from stream.contract.manifest import MANIFEST_FILE, MODEL_FILE
from stream.errors import ContractError, ValuestreamError
from stream.score.external_data import FIELDS, check_self_contained
from stream.score.scorer import DEMO_MODEL, Scorer
from stream.score.session import open_session
from tests.security.model_folder import SIGNATURE, refused, rewrite

Graph = Callable[[Any], object]


def put_model(folder: Path, change: Graph) -> None:
    model = onnx.load_model(folder / MODEL_FILE)
    change(model)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())
    rewrite(folder)


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
