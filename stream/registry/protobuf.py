"""Protobuf: reads values by their schema, into the JSON that Protobuf itself defines for them.

A registry keeps the text of .proto files, which only Protobuf's own compiler reads in full. It runs in a process of its
own, once for each schema. Some producers register the compiled form instead, in base64.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["protobuf_reader"]

#: The name of the schema itself among its files.
_MAIN: Final = "valuestream-main.proto"
_COMPILE_TIMEOUT_S: Final = 10.0
#: A message stands in another one at most this deep; Protobuf itself reads 100.
_INDEXES_MAX: Final = 32
#: Files that every compiler has, and that a compiled schema may import.
_WELL_KNOWN: Final = ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers")


def protobuf_reader(text: str, others: Mapping[str, str]) -> Callable[[bytes], Any]:
    """What reads values of this schema; ``others`` are the files that it imports. Raises ValueError if it is bad.

    Fields keep the names of the .proto file. The reader raises many errors for a value that does not fit.
    """
    from google.protobuf import descriptor_pool, json_format, message_factory

    files = _compiled_files(text, others)
    main = files[-1]
    pool = descriptor_pool.DescriptorPool()
    try:
        for file in files:
            pool.Add(file)
        top = pool.FindFileByName(main.name)
        classes = _message_classes(top, message_factory.GetMessageClass)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{error!s:.200}") from None

    def reader(content: bytes) -> Any:
        place, begin = _place(content)
        if place not in classes:
            raise ValueError(f"its schema has no message at {list(place)}")
        message = classes[place].FromString(content[begin:])
        return json_format.MessageToDict(message, preserving_proto_field_name=True)

    return reader


def _message_classes(file: Any, class_of: Callable[[Any], Any]) -> dict[tuple[int, ...], Any]:
    """The class of each message of a file, by its place: the index of the message, and of those within it."""
    classes: dict[tuple[int, ...], Any] = {}

    def add(messages: Any, outer: tuple[int, ...]) -> None:
        for i, message in enumerate(messages):
            classes[*outer, i] = class_of(message)
            add(message.nested_types, (*outer, i))

    # The file lists its messages in the order in which they stand in it.
    add(file.message_types_by_name.values(), ())
    return classes


def _place(content: bytes) -> tuple[tuple[int, ...], int]:
    """The place of the message in its schema, and where the message begins. A single 0 stands for the first message."""
    n, at = _zigzag(content, 0)
    if not 0 <= n <= _INDEXES_MAX:
        raise ValueError(f"the place of its message has {n} parts")
    indexes = []
    for _ in range(n):
        index, at = _zigzag(content, at)
        indexes.append(index)
    return tuple(indexes) or (0,), at


def _zigzag(content: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, as a zigzag varint, and where it ends."""
    number = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError("it ends within the place of its message")
        byte = content[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at


def _compiled_files(text: str, others: Mapping[str, str]) -> list[Any]:
    """The descriptors of all files that the schema needs, each after those it imports; its own is the last."""
    from google.protobuf import descriptor_pb2
    from google.protobuf.message import DecodeError

    try:
        sources = [*others.values(), text]
        compiled = [descriptor_pb2.FileDescriptorProto.FromString(b64decode(one, validate=True)) for one in sources]
    except (ValueError, DecodeError):
        return list(descriptor_pb2.FileDescriptorSet.FromString(_compile(text, others)).file)
    return [*_well_known(compiled), *compiled]


def _well_known(compiled: list[Any]) -> list[Any]:
    """Protobuf's own files that these import."""
    from importlib import import_module

    from google.protobuf import descriptor_pb2

    imported = {name for file in compiled for name in file.dependency} - {file.name for file in compiled}
    files = []
    for name in _WELL_KNOWN:
        if f"google/protobuf/{name}.proto" in imported:
            file = descriptor_pb2.FileDescriptorProto()
            import_module(f"google.protobuf.{name}_pb2").DESCRIPTOR.CopyToProto(file)
            files.append(file)
    return files


def _compile(text: str, others: Mapping[str, str]) -> bytes:
    """The compiled form of a .proto file with all that it imports. Raises ValueError with the compiler's words."""
    with tempfile.TemporaryDirectory(prefix="valuestream-proto-") as folder:
        sources, out = Path(folder, "sources"), Path(folder, "compiled")
        for name, source in {**others, _MAIN: text}.items():
            path = (sources / name).resolve()
            if not path.is_relative_to(sources.resolve()):
                raise ValueError(f"it imports {name!r:.100}, which is no name of a file")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"-I{sources}", "--include_imports"]
        try:
            run = subprocess.run(
                [*command, f"--descriptor_set_out={out}", _MAIN],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_COMPILE_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"it took more than {_COMPILE_TIMEOUT_S:.0f} s to compile") from None
        if run.returncode:
            raise ValueError(" ".join(run.stderr.split())[:300])
        return out.read_bytes()
