"""Logs of the service: short lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import PurePath
from typing import Final

from stream.service.settings import Settings

__all__ = ["JsonFormatter", "TextFormatter", "setup"]

#: Libraries that log much at info level, Faust's banner and assignment tables among it.
CHATTY: Final = ("faust", "mode", "aiokafka", "kafka", "asyncio", "aiohttp")

_PERSON: Final = frozenset({"user", "user_id", "users", "userid", "anonymous_id", "email", "password"})
_CONTENT: Final = frozenset({"key", "value", "payload", "body", "event", "record", "properties", "headers"})
#: Extra fields whose value never reaches a log: whoever reads logs need not know who the customers are.
PRIVATE: Final = _PERSON | _CONTENT
_WITHHELD: Final = "[withheld]"

#: Log collectors cut lines at 16 KiB; of a longer text the end is kept, where a traceback names its error.
_TEXT_CHARACTERS_MAX: Final = 8_000
#: A field is a name or a number; what is longer is no field.
_FIELD_CHARACTERS_MAX: Final = 200

#: What every record has; anything else came with ``extra=``.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup(settings: Settings) -> None:
    """Send all logging to stderr in the chosen format; libraries that chatter are heard from warnings up."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; an exception is one field, never further lines."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _tail(record.getMessage()),
        }
        line.update((f"{name}_" if name in line else name, value) for name, value in _extras(record))
        if record.exc_info:
            line["exception"] = _tail(self.formatException(record.exc_info))
        return json.dumps(line, allow_nan=False)


class TextFormatter(logging.Formatter):
    """``12:34:56 warning worker: what happened (field=value)``, times in UTC, tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = ", ".join(f"{name}={value}" for name, value in _extras(record))
        name = record.name.removeprefix("stream.").removeprefix("service.")
        line = f"{time} {record.levelname.lower():<7} {name}: {_tail(record.getMessage())}"
        line += f" ({fields})" if fields else ""
        return f"{line}\n{_tail(self.formatException(record.exc_info))}" if record.exc_info else line


def _extras(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    for name, value in vars(record).items():
        if name not in _STANDARD:
            yield name, _WITHHELD if name in PRIVATE else _plain(value)


def _plain(value: object) -> object:
    """Numbers, short texts and paths as they are; of anything else only its type, since it may hold an event."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, str | PurePath):
        return _head(str(value))
    return f"<{type(value).__name__}>"


def _head(text: str) -> str:
    return text if len(text) <= _FIELD_CHARACTERS_MAX else f"{text[:_FIELD_CHARACTERS_MAX]}…"


def _tail(text: str) -> str:
    return text if len(text) <= _TEXT_CHARACTERS_MAX else f"…{text[-_TEXT_CHARACTERS_MAX:]}"
