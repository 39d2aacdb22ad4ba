"""Avro: reads values by their schema, into what the JSON of the same event would be.

fastavro's compiled reader has no bound on depth and on what a few bytes may become: a value nested 5,000 deep ends the
process, and ten bytes can be an array of a billion nulls. So schemas that allow such values are refused.
"""

from __future__ import annotations

import io
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ["avro_reader"]

#: How many values a record may have that take no bytes: nulls, and fields of a record without fields.
_FREE_MAX: Final = 64
#: How deep the values of a schema may be nested, and how deep its own JSON: a record within a record adds three.
_DEPTH_MAX: Final = 100
_JSON_DEPTH_MAX: Final = 300


def avro_reader(text: str, others: Mapping[str, str]) -> Callable[[bytes], Any]:
    """What reads values of this schema; ``others`` are the schemas that it refers to. Raises ValueError if it is bad.

    The reader gives what JSON has, and times with a date as ``datetime``. It raises many errors for a value that does
    not fit.
    """
    import fastavro
    from fastavro.schema import SchemaParseException

    named: dict[str, Any] = {}
    try:
        for other in others.values():
            fastavro.parse_schema(_json(other), named)
        schema = fastavro.parse_schema(_json(text), named)
        _Bounds(named).size(schema)
    except (SchemaParseException, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error!s:.200}") from None
    read = fastavro.schemaless_reader

    def reader(content: bytes) -> Any:
        source = io.BytesIO(content)
        value = read(source, schema, None)
        if source.read(1):
            raise ValueError("bytes are left over")
        return _plain(value)

    return reader


def _json(text: str) -> Any:
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError:
        # Some registries give the name of a primitive type without its quotes.
        return text
    inside = [document]
    for _ in range(_JSON_DEPTH_MAX):
        inside = [inner for outer in inside for inner in _inner(outer)]
        if not inside:
            return document
    raise ValueError(f"it is nested more than {_JSON_DEPTH_MAX} deep")


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class _Size(NamedTuple):
    """Of one value: how many values in it take no bytes, how deep it is, and whether it takes a byte at all."""

    free: int
    depth: int
    takes_bytes: bool


class _Bounds:
    """Refuses schemas whose values have no bound. ``named`` are all named types, as fastavro has parsed them."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._known: dict[str, _Size] = {}
        #: The records that we are inside of.
        self._open: set[str] = set()

    def size(self, schema: Any) -> _Size:
        """The size of the values of this schema. Raises ValueError if it has no bound, or too large a one."""
        if isinstance(schema, str):
            return self._of_named(schema) if schema in self._named else _leaf(schema != "null")
        if isinstance(schema, list):
            sizes = [self.size(branch) for branch in schema]
            return _Size(max((size.free for size in sizes), default=0), _deepest(sizes), True)
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._of_named(schema["name"])
        if kind in ("array", "map"):
            return self._of_many(kind, schema["items" if kind == "array" else "values"])
        if kind == "fixed":
            return _leaf(schema["size"] > 0)
        return _leaf(True) if kind == "enum" else self.size(kind)

    def _of_many(self, kind: str, inner: Any) -> _Size:
        size = self.size(inner)
        # Each entry of a map has a key, which takes a byte.
        if kind == "array" and not size.takes_bytes:
            raise ValueError("an array of it may hold any number of values that take no bytes")
        return _Size(0, 1 + size.depth, True)

    def _of_named(self, name: str) -> _Size:
        if name in self._open:
            raise ValueError(f"{name} may hold another {name}, expected a schema that does not refer to itself")
        if name not in self._known:
            schema = self._named[name]
            if schema["type"] not in ("record", "error"):
                return self.size(schema)
            self._open.add(name)
            self._known[name] = self._of_record(name, [self.size(field["type"]) for field in schema["fields"]])
            self._open.discard(name)
        return self._known[name]

    def _of_record(self, name: str, fields: list[_Size]) -> _Size:
        takes_bytes = any(field.takes_bytes for field in fields)
        free, depth = sum(field.free for field in fields) + (not takes_bytes), 1 + _deepest(fields)
        if free > _FREE_MAX:
            raise ValueError(f"{name} has {free} values that take no bytes, expected at most {_FREE_MAX}")
        if depth > _DEPTH_MAX:
            raise ValueError(f"{name} is nested more than {_DEPTH_MAX} deep")
        return _Size(free, depth, takes_bytes)


def _leaf(takes_bytes: bool) -> _Size:
    return _Size(0 if takes_bytes else 1, 1, takes_bytes)


def _deepest(sizes: Iterable[_Size]) -> int:
    return max((size.depth for size in sizes), default=0)


def _plain(value: Any) -> Any:
    """The value as JSON would have it. A decimal is a number, because its text might be read in two ways."""
    kind = type(value)
    if kind is dict:
        return {name: _plain(inner) for name, inner in value.items()}
    if kind is list:
        return [_plain(inner) for inner in value]
    convert = _PLAIN.get(kind)
    return value if convert is None else convert(value)


def _text(value: bytes) -> str:
    """Bytes as the text that they are, else in base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64encode(value).decode()


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    Decimal: _number,
    bytes: _text,
    uuid.UUID: str,
    date: date.isoformat,
    time: time.isoformat,
    tuple: list,
}
