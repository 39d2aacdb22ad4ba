"""Wire: the bytes of one record → the events in it, whatever they were wrapped in on their way.

A record may begin with a byte order mark or with the five bytes of the Confluent wire format, and may be gzipped. It
may hold one event, a list, lines of JSON, a batch of a Segment library, or an event in the envelope of Kafka Connect.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from typing import Any, Final, NoReturn

import msgspec

from stream.decode.placeholders import shown
from stream.errors import EventError

__all__ = ["events_of", "json_of", "unpacked"]

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_JSON_SPACES: Final = b" \t\r\n"
#: The magic byte of the Confluent wire format, and the number of the schema behind it.
_CONFLUENT_BYTES: Final = 5
#: More events than this in one record are not from a sender that batches: Segment's libraries send up to 500.
_EVENTS_MAX: Final = 1_000
#: How often a wrapping may stand in a wrapping.
_DEPTH_MAX: Final = 6
_PARSE: Final = msgspec.json.Decoder().decode


def events_of(value: Any, bytes_max: int) -> list[dict[str, Any]]:
    """The JSON objects of the events of one record, in order. ``value`` is its bytes, or a document that they held.

    ``bytes_max`` bounds what a gzipped value may become. Raises EventError ``malformed``, ``too_deep``, ``confluent``
    or ``oversized``.

    >>> events_of(b'{"batch": [{"event": "a"}, {"event": "b"}]}', 1_000)
    [{'event': 'a'}, {'event': 'b'}]
    """
    events: list[dict[str, Any]] = []
    for document in _documents(_text(value, bytes_max)) if isinstance(value, bytes) else [value]:
        _collect(document, events, _DEPTH_MAX)
    if not events:
        raise _malformed("holds no event")
    return events


def json_of(text: bytes) -> Any:
    """The JSON document of a text. A number too large for a float is infinite, because it may be one that nobody reads.

    Raises EventError ``malformed`` or ``too_deep``.
    """
    try:
        try:
            return _PARSE(text)
        except msgspec.ValidationError:
            return _with_huge_numbers(text)
    except RecursionError:
        raise EventError("too_deep", "value is nested too deeply to read, expected a flat event") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise _malformed(f"is not JSON ({error!s:.100})", text) from None


def _with_huge_numbers(text: bytes) -> Any:
    document = json.loads(text.decode(), parse_int=_integer, parse_constant=_refuse_constant)
    # Unlike msgspec, the standard library lets half of a surrogate pair through. It cannot be written again.
    json.dumps(document, ensure_ascii=False).encode()
    return document


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else math.inf


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _text(value: bytes, bytes_max: int) -> bytes:
    """The value without what was put around its text."""
    value = unpacked(value, bytes_max)
    if value[:1] == b"\0" and len(value) > _CONFLUENT_BYTES:
        inside = value[_CONFLUENT_BYTES:].lstrip(_JSON_SPACES)
        if inside[:1] not in (b"{", b"["):
            raise EventError(
                "confluent",
                "value is in the Confluent wire format, and not JSON behind its first five bytes; "
                "expected JSON; no schema registry is configured, so set --schema-registry-url",
            )
        value = inside
    return value.removeprefix(_BYTE_ORDER_MARK).strip(_JSON_SPACES)


def unpacked(value: bytes, bytes_max: int) -> bytes:
    """The value without gzip. Raises EventError ``malformed`` for a damaged one, ``oversized`` for one too large."""
    if value[:2] != _GZIP:
        return value
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(value, bytes_max + 1)
    except zlib.error as error:
        raise _malformed(f"begins as gzip and is damaged ({error})", value) from None
    if len(text) > bytes_max:
        raise EventError("oversized", f"value has more than {bytes_max} bytes when unpacked; see --event-bytes-max")
    if not unpacker.eof or unpacker.unused_data:
        raise _malformed(f"begins as gzip and ends {'too late' if unpacker.eof else 'too early'}", value)
    return text


def _documents(text: bytes) -> list[Any]:
    """The JSON documents of a text: one, or one a line."""
    try:
        return [json_of(text)]
    except EventError:
        lines = [line for line in text.splitlines() if line.strip(_JSON_SPACES)]
        if len(lines) < 2:
            raise
    if len(lines) > _EVENTS_MAX:
        raise _malformed(f"is not JSON, and has {len(lines)} lines; expected at most {_EVENTS_MAX}", text)
    return [json_of(line) for line in lines]


def _collect(document: Any, events: list[dict[str, Any]], depth: int) -> None:
    """Add the events of a document to ``events``."""
    if depth == 0:
        raise _malformed(f"wraps its events more than {_DEPTH_MAX - 1} times")
    if isinstance(document, str):
        # JSON within JSON, as a converter for text writes it.
        document = _documents(document.encode())
    elif isinstance(document, dict):
        wrapped = _wrapped(document)
        if wrapped is None:
            if len(events) == _EVENTS_MAX:
                raise _malformed(f"holds more than {_EVENTS_MAX} events")
            events.append(document)
            return
        document = wrapped
    elif not isinstance(document, list):
        raise _malformed(f"holds {shown(document)}")
    for inner in document:
        _collect(inner, events, depth - 1)


def _wrapped(document: dict[str, Any]) -> list[Any] | None:
    """What a wrapping wraps; None if the document is an event itself."""
    batch = document.get("batch")
    if isinstance(batch, list) and "type" not in document:
        # A library says once for all of a batch when it was sent.
        sent = {key: document[key] for key in ("sentAt", "receivedAt") if key in document}
        return [sent | event if isinstance(event, dict) else event for event in batch]
    return [document["payload"]] if document.keys() == {"schema", "payload"} else None


def _malformed(problem: str, value: bytes = b"") -> EventError:
    quoted = f" ({value[:40]!r})" if value else ""
    return EventError(
        "malformed", f"value {problem}{quoted}, expected one JSON object; check the producer's serializer"
    )
