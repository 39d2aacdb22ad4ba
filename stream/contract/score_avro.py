"""The Avro schemas of the ``scores`` and ``alerts`` topics, made from the same structs as their JSON Schemas.

Fields have the names, the order and the meaning that they have in JSON. Words of a closed set are strings, so that a
later release may add one. ``python -m stream.contract.score_avro`` writes ``score.v1.avsc`` and ``alert.v1.avsc``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from stream.contract.score import Alert, Score

__all__ = ["avro_schema"]

_NAMESPACE: Final = "valuestream"
_PRIMITIVES: Final[dict[type, str]] = {
    msgspec.inspect.StrType: "string",
    msgspec.inspect.LiteralType: "string",
    msgspec.inspect.IntType: "long",
    msgspec.inspect.FloatType: "double",
    msgspec.inspect.NoneType: "null",
}


def avro_schema(record: type[Score] | type[Alert]) -> dict[str, Any]:
    """The Avro schema of one record. A later release only adds fields, each with a default."""
    schema: dict[str, Any] = _of(msgspec.inspect.type_info(record), set())
    return schema


def _of(kind: Any, named: set[str]) -> Any:
    """The schema of a type. ``named`` are the records that were described before: each is described once."""
    if isinstance(kind, msgspec.inspect.StructType):
        return _record(kind, named)
    if isinstance(kind, msgspec.inspect.UnionType):
        # The default of a union is of its first type, and ours is null.
        return sorted((_of(one, named) for one in kind.types), key=lambda one: one != "null")
    if isinstance(kind, msgspec.inspect.TupleType):
        return {"type": "array", "items": _of(kind.item_types[0], named)}
    if isinstance(kind, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
        return {"type": "array", "items": _of(kind.item_type, named)}
    return _PRIMITIVES[type(kind)]


def _record(kind: Any, named: set[str]) -> Any:
    name = kind.cls.__name__
    if name in named:
        return f"{_NAMESPACE}.{name}"
    named.add(name)
    fields: list[dict[str, Any]] = []
    if kind.tag_field is not None:
        fields.append({"name": kind.tag_field, "type": "string", "default": kind.tag})
    for field in kind.fields:
        described = {"name": field.encode_name, "type": _of(field.type, named)}
        if field.default_factory is list:
            described["default"] = []
        elif field.default is not msgspec.NODEFAULT:
            described["default"] = field.default
        fields.append(described)
    doc = " ".join((kind.cls.__doc__ or "").split())
    return {"type": "record", "name": name, "namespace": _NAMESPACE, "doc": doc, "fields": fields}


if __name__ == "__main__":
    for file, struct in (("score", Score), ("alert", Alert)):
        path = Path(__file__).parent / f"{file}.v1.avsc"
        path.write_text(json.dumps(avro_schema(struct), indent=2) + "\n", encoding="utf-8")
