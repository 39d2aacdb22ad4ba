"""Wire: the bytes of one record → the events in it, whatever they were wrapped in on their way.

A record may begin with a byte order mark or with the five bytes of the Confluent wire format, and may be gzipped. It
may hold one event, a list, lines of JSON, a batch of a Segment library, or an event in the envelope of Kafka Connect.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import orjson

from stream.errors import EventError

__all__ = ["events_of"]

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
#: The magic byte of the Confluent wire format, and the number of the schema behind it.
_CONFLUENT_BYTES: Final = 5
#: More events than this in one record are not from a sender that batches: Segment's libraries send up to 500.
_EVENTS_MAX: Final = 1_000
#: How often a wrapping may stand in a wrapping.
_DEPTH_MAX: Final = 4


def events_of(value: bytes, bytes_max: int) -> list[dict[str, Any]]:
    """The JSON objects of the events of one record, in order. Raises EventError ``malformed`` or ``oversized``.

    ``bytes_max`` bounds what a gzipped value may become.

    >>> events_of(b'{"batch": [{"event": "a"}, {"event": "b"}]}', 1_000)
    [{'event': 'a'}, {'event': 'b'}]
    """
    found: list[dict[str, Any]] = []
    for document in _documents(_text(value, bytes_max)):
        _collect(document, found, _DEPTH_MAX)
    if not found:
        raise _malformed(value, "holds no JSON object")
    return found


def _text(value: bytes, bytes_max: int) -> bytes:
    """The value without what was put around its text."""
    if value[:2] == _GZIP:
        value = _gunzipped(value, bytes_max)
    if value[:1] == b"\0" and len(value) > _CONFLUENT_BYTES:
        inside = value[_CONFLUENT_BYTES:].lstrip()
        if inside[:1] not in (b"{", b"["):
            raise EventError(
                "confluent",
                "value is in the Confluent wire format, and not JSON behind its first five bytes; "
                "expected JSON; no schema registry is configured, so send JSON",
            )
        value = inside
    return value.removeprefix(_BYTE_ORDER_MARK).strip()


def _gunzipped(value: bytes, bytes_max: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        out = unpacker.decompress(value, bytes_max + 1)
    except zlib.error as error:
        raise _malformed(value, f"begins as gzip and is damaged ({error})") from None
    if len(out) > bytes_max:
        raise EventError("oversized", f"value has more than {bytes_max} bytes when unpacked; see --event-bytes-max")
    if not unpacker.eof:
        raise _malformed(value, "begins as gzip and ends too early")
    return out


def _documents(text: bytes) -> list[Any]:
    """The JSON documents of a text: one, or one a line."""
    try:
        return [orjson.loads(text)]
    except orjson.JSONDecodeError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise _malformed(text, f"is not JSON ({error})") from None
    if len(lines) > _EVENTS_MAX:
        raise _malformed(text, f"has {len(lines)} lines, expected at most {_EVENTS_MAX}")
    try:
        return [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError as error:
        raise _malformed(text, f"is not JSON ({error})") from None


def _collect(document: Any, found: list[dict[str, Any]], depth: int) -> None:
    """Add the events of a document to those found."""
    if depth == 0 or len(found) > _EVENTS_MAX:
        raise _malformed(b"", f"holds more than {_EVENTS_MAX} events, or wraps them more than {_DEPTH_MAX} times")
    if isinstance(document, str):
        # JSON within JSON, as a converter for text writes it.
        for inner in _documents(document.encode()):
            _collect(inner, found, depth - 1)
    elif isinstance(document, list):
        for inner in document:
            _collect(inner, found, depth - 1)
    elif isinstance(document, dict):
        inside = _inside(document)
        if inside is None:
            found.append(document)
        else:
            _collect(inside, found, depth - 1)
    else:
        raise _malformed(b"", f"holds {document!r:.40}")


def _inside(document: dict[str, Any]) -> Any:
    """What a wrapping wraps; None if the document is an event itself."""
    if isinstance(document.get("batch"), list):
        # A library says once for all of a batch when it was sent.
        sent = {key: document[key] for key in ("sentAt", "receivedAt") if key in document}
        return [sent | event if isinstance(event, dict) else event for event in document["batch"]]
    if document.keys() == {"schema", "payload"}:
        return document["payload"]
    return None


def _malformed(value: bytes, problem: str) -> EventError:
    shown = f" ({value[:40]!r})" if value else ""
    return EventError("malformed", f"value {problem}{shown}, expected one JSON object; check the producer's serializer")
