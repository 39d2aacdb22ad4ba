"""External data: refuses an ONNX model that refers to other files, before onnxruntime gets it.

A tensor in an ONNX model may say that its numbers are in another file, anywhere on the disk. Our models contain all
their numbers. So a model with such a tensor was not made by us, and no file that it names is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from stream.errors import ConfigError, ContractError

__all__ = ["check_self_contained"]

#: All paths from a model to its tensors: message → field → field number and message of the field (onnx.proto). Protobuf
#: skips all other fields, and reads a single message as a list of one.
FIELDS: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "ModelProto": {
        "graph": (7, "GraphProto"),
        "training_info": (20, "TrainingInfoProto"),
        "functions": (25, "FunctionProto"),
    },
    "TrainingInfoProto": {"initialization": (1, "GraphProto"), "algorithm": (2, "GraphProto")},
    "GraphProto": {
        "node": (1, "NodeProto"),
        "initializer": (5, "TensorProto"),
        "sparse_initializer": (15, "SparseTensorProto"),
    },
    "FunctionProto": {"node": (7, "NodeProto"), "attribute_proto": (11, "AttributeProto")},
    "NodeProto": {"attribute": (5, "AttributeProto")},
    "AttributeProto": {
        "t": (5, "TensorProto"),
        "g": (6, "GraphProto"),
        "tensors": (10, "TensorProto"),
        "graphs": (11, "GraphProto"),
        "sparse_tensor": (22, "SparseTensorProto"),
        "sparse_tensors": (23, "SparseTensorProto"),
    },
    "SparseTensorProto": {"values": (1, "TensorProto"), "indices": (2, "TensorProto")},
    "TensorProto": {"external_data": (13, "StringStringEntryProto")},
    "StringStringEntryProto": {},
}
#: Field number of TensorProto.data_location. The value 0 means that the numbers are in the tensor itself.
_DATA_LOCATION: Final = 14


def check_self_contained(path: Path, data: bytes) -> None:
    """Raise ContractError if ``data`` is no ONNX model, or if the numbers of one of its tensors are not in it.

    ``path`` only names the model in the message.
    """
    model = _model_class()()
    try:
        model.ParseFromString(data)
    except Exception as error:
        raise ContractError(f"model {path} cannot be loaded: {error}; export it again") from None
    for tensor in _tensors(model, "ModelProto"):
        if tensor.external_data or tensor.data_location:
            raise ContractError(
                f"model {path} refers to numbers in another file (external data), expected all of them inside;"
                " do not serve it; export the model again"
            )


def _tensors(message: Any, kind: str) -> Iterator[Any]:
    """All tensors in a message of this kind, at any depth."""
    if kind == "TensorProto":
        yield message
        return
    for name, (_, child_kind) in FIELDS[kind].items():
        for child in getattr(message, name):
            yield from _tensors(child, child_kind)


@cache
def _model_class() -> Any:
    """A protobuf class for a model with only :data:`FIELDS`. The onnx package has all fields, but serving lacks it."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise ConfigError(
            "protobuf is not installed, which comes with onnxruntime; install 'valuestream[cpu]'"
        ) from None
    file = descriptor_pb2.FileDescriptorProto(name="valuestream/graph.proto", package="valuestream", syntax="proto2")
    for kind, fields in FIELDS.items():
        declared = file.message_type.add(name=kind)
        for name, (number, child) in fields.items():
            declared.field.add(name=name, number=number, label=3, type=11, type_name=f".valuestream.{child}")
        if kind == "TensorProto":
            declared.field.add(name="data_location", number=_DATA_LOCATION, label=1, type=5)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("valuestream.ModelProto"))
