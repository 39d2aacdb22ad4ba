"""Wire format: finds the id of the schema in a Kafka record, and puts it before a value of ours.

This is the Confluent wire format. The id stands in the first five bytes of the value (a zero, and a big-endian number)
or, with newer serializers, in a header: a zero and that number, or a one and a GUID. For Protobuf the place of the
message in its schema follows the id.
"""

from __future__ import annotations

import struct
import uuid
from typing import Any, Final, NamedTuple

__all__ = ["Framed", "SchemaKey", "frame", "framed"]

#: What a record calls its schema: the number that the registry gave to it, or its GUID.
SchemaKey = int | str
_PREFIX: Final = struct.Struct(">bI")
_HEADER: Final = "__value_schema_id"
_GUID_BYTES: Final = 16


class Framed(NamedTuple):
    """A value, and the key of its schema. For Protobuf, ``content`` begins with the place of the message."""

    key: SchemaKey
    content: bytes


def framed(record: Any) -> Framed | None:
    """The content of a record in the Confluent wire format, None if the record is in no such format."""
    value = record.value
    if value is None:
        return None
    for name, content in getattr(record, "headers", ()):
        if name == _HEADER and content:
            return _by_header(content, value)
    return _by_number(value, b"") if value[:1] == b"\0" else None


def frame(schema_id: int, content: bytes) -> bytes:
    """The value that says that ``content`` is written by this schema.

    >>> frame(7, b"content")
    b'\\x00\\x00\\x00\\x00\\x07content'
    """
    return _PREFIX.pack(0, schema_id) + content


def _by_header(header: bytes, value: bytes) -> Framed | None:
    if header[0] == 0:
        return _by_number(header, value)
    rest = header[1 + _GUID_BYTES :]
    if header[0] != 1 or len(header) < 1 + _GUID_BYTES:
        return None
    return Framed(str(uuid.UUID(bytes=header[1 : 1 + _GUID_BYTES])), rest + value)


def _by_number(begin: bytes, rest: bytes) -> Framed | None:
    if len(begin) < _PREFIX.size:
        return None
    return Framed(_PREFIX.unpack_from(begin)[1], begin[_PREFIX.size :] + rest)
