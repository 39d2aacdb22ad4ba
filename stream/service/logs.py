"""Logs of the service: short lines for people, or one JSON object a line for machines.

What an event holds, and whose it is, reaches no log at any level: libraries, whose debug lines print whole records, are
heard from warnings up, fields that could hold an event are withheld, and so is the text of an error that we did not
word ourselves, as ``KeyError('user-7')`` would name a customer.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path, PurePath
from types import TracebackType
from typing import Final

from stream.errors import EventError, ValuestreamError
from stream.kafka.client_types import AioKafkaError
from stream.settings import Settings

__all__ = ["JsonFormatter", "TextFormatter", "setup"]

#: The logger whose level is the one that was set.
OURS: Final = "stream"
#: Where the code of Faust's services lies. They log by the name of the module that subclasses them: one of ours.
_FAUST: Final = tuple(f"{Path(str(import_module(package).__file__)).parent}{os.sep}" for package in ("faust", "mode"))

_PERSON: Final = frozenset({"user", "user_id", "users", "userid", "anonymous_id", "email", "password"})
_CONTENT: Final = frozenset({"key", "value", "payload", "body", "event", "record", "properties", "headers"})
#: Extra fields whose value never reaches a log: whoever reads logs need not know who the customers are.
PRIVATE: Final = _PERSON | _CONTENT
_WITHHELD: Final = "[withheld]"
#: Errors whose text is ours, or says what is wrong with a broker or a file and never what is in a record.
_WORDED: Final = (ValuestreamError, AioKafkaError, OSError)

#: Log collectors cut lines at 16 KiB; of a longer text the end is kept, where a traceback names its error.
_TEXT_CHARACTERS_MAX: Final = 8_000
#: A field is a name or a number; what is longer is no field.
_FIELD_CHARACTERS_MAX: Final = 200
#: How often a library may say the same, and how many sayings are remembered.
_REPEAT_S: Final = 10.0
_SAID_MAX: Final = 1_000

#: What every record has; anything else came with ``extra=``.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup(settings: Settings) -> None:
    """Send all logging to stderr in the chosen format, and the traceback of what nobody caught with it."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Ours())
    handler.addFilter(_Seldom())
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger(OURS).setLevel(level)
    sys.excepthook = _log_uncaught


class _Ours(logging.Filter):
    """Below warnings, only what our own code says."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what Faust says in our name."""
        return record.levelno >= logging.WARNING or not record.pathname.startswith(_FAUST)


class _Seldom(logging.Filter):
    """Of what a library repeats, a line in ten seconds: a client without its broker says 100 a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what was said within the last ten seconds, whatever its arguments."""
        what = (record.name, str(record.msg))
        if record.name.startswith(OURS) or record.created - self._said.get(what, -math.inf) >= _REPEAT_S:
            if len(self._said) >= _SAID_MAX:
                self._said.clear()
            self._said[what] = record.created
            return True
        return False


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger(__name__).critical("ended by an error. This is a bug.", exc_info=(kind, error, trace))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; an exception is one field, never further lines."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _tail(_message(record)),
        }
        line.update((f"{name}_" if name in line else name, value) for name, value in _extras(record))
        if record.exc_info:
            line["exception"] = _tail(_traceback(record.exc_info[1]))
        return json.dumps(line, allow_nan=False)


class TextFormatter(logging.Formatter):
    """``12:34:56 warning worker: what happened (field=value)``, times in UTC, tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = ", ".join(f"{name}={value}" for name, value in _extras(record))
        name = record.name.rpartition(".")[2] if record.name.startswith("stream.") else record.name
        line = f"{time} {record.levelname.lower():<7} {name}: {_tail(_message(record))}"
        line += f" ({fields})" if fields else ""
        return f"{line}\n{_tail(_traceback(record.exc_info[1]))}" if record.exc_info else line


def _message(record: logging.LogRecord) -> str:
    """The message; of an error among its arguments only the kind, where the text is not known to be harmless."""
    if isinstance(record.args, tuple):
        args = tuple(
            _Kind(arg) if isinstance(arg, BaseException) and not _is_worded(arg) else arg for arg in record.args
        )
        message = str(record.msg) % args if args else str(record.msg)
    else:
        message = record.getMessage()
    # asyncio writes the error of a lost task, in full, below its first line.
    return message if record.name.startswith(OURS) else message.partition("\n")[0]


class _Kind:
    """An error in a log line: its kind and no more, whichever way it is formatted."""

    def __init__(self, error: BaseException) -> None:
        self._name = type(error).__name__

    def __repr__(self) -> str:
        return self._name


def _is_worded(error: BaseException) -> bool:
    # An EventError goes to the dead letters with its event, and quotes it.
    return isinstance(error, _WORDED) and not isinstance(error, EventError)


def _traceback(error: BaseException | None) -> str:
    """Tracebacks of an error and of those behind it: files and lines of code, texts of errors where harmless."""
    parts = []
    while error is not None:
        text = str(error) if _is_worded(error) else _WITHHELD
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{type(error).__name__}: {text}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\n".join(reversed(parts))


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
