"""Mapping: where each field of an event stands, as ``--envelope shop.toml`` says it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path as File
from typing import Any, Final, TypeAlias

from stream.contract.events import ORDER_UPDATED, EventType
from stream.decode.envelopes.envelope import ALL_NAMES
from stream.decode.envelopes.paths import Path, parts_of
from stream.decode.names import canonical
from stream.errors import ConfigError

__all__ = ["LineMapping", "MappedEnvelope", "Paths", "paths", "read_mapping"]

Paths: TypeAlias = tuple[Path, ...]
#: What a name may mean, as it is written in a mapping.
_MEANINGS: Final = {**{t.name.lower(): int(t) for t in EventType}, "order_updated": ORDER_UPDATED}
_LINE_KEYS: Final = ("item", "category", "price", "quantity")
_FIELD_KEYS: Final = (
    *("user", "time", "id", "type", "item", "category", "price", "quantity"),
    *("order", "amount", "currency", "text", "lines"),
)


@dataclass(frozen=True, slots=True)
class LineMapping:
    """Where the fields of a line stand in an element of the list of lines."""

    item: Paths = ()
    category: Paths = ()
    price: Paths = ()
    quantity: Paths = ()


@dataclass(frozen=True, slots=True)
class MappedEnvelope:
    """Where each field stands. If several paths are given, the first one with something at it counts.

    ``lines`` are lists of order lines. ``always`` is the name of every event, where events do not name what they are.
    """

    user: Paths
    time: Paths
    type: Paths = ()
    always: str = ""
    id: Paths = ()
    item: Paths = ()
    category: Paths = ()
    price: Paths = ()
    quantity: Paths = ()
    order: Paths = ()
    amount: Paths = ()
    currency: Paths = ()
    text: Paths = ()
    lines: Paths = ()
    line: LineMapping = field(default_factory=LineMapping)
    names: Mapping[str, int] = field(default_factory=dict)


def paths(*written: str) -> Paths:
    """These paths, as they are written in a file."""
    return tuple(map(parts_of, written))


def read_mapping(file: File) -> MappedEnvelope:
    """Read a mapping. Raises ConfigError, in one line, for a file that is none."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"envelope {file} cannot be read ({error.strerror}); check --envelope") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"envelope {file} is not TOML ({error}); mend the file") from None
    _check_keys(file, "", content, (*_FIELD_KEYS, "always", "line", "names"))
    line, names = _table(file, content, "line"), _table(file, content, "names")
    _check_keys(file, "line.", line, _LINE_KEYS)
    fields = {key: _paths(file, key, content[key]) for key in _FIELD_KEYS if key in content}
    for key in ("user", "time"):
        if not fields.get(key):
            raise ConfigError(f'envelope {file} has no {key}, expected the path of it, such as {key} = "{key}"')
    always = content.get("always", "")
    if not isinstance(always, str) or bool(always) == bool(fields.get("type")):
        raise ConfigError(
            f"envelope {file} needs either type, the path of the event's name, or always, the name of every event"
        )
    return MappedEnvelope(
        **fields,
        always=always,
        line=LineMapping(**{key: _paths(file, f"line.{key}", value) for key, value in line.items()}),
        names=ALL_NAMES | {canonical(name): _meaning(file, name, meaning) for name, meaning in names.items()},
    )


def _check_keys(file: File, place: str, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            meant = f"; did you mean {place}{near[0]}?" if near else ""
            raise ConfigError(f"envelope {file} has {place}{key}, expected one of {', '.join(known)}{meant}")


def _table(file: File, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"envelope {file}: {key} is {table!r:.40}, expected a table [{key}]")
    return table


def _paths(file: File, key: str, value: Any) -> Paths:
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list) or not written or not all(isinstance(path, str) and path for path in written):
        raise ConfigError(
            f'envelope {file}: {key} is {value!r:.40}, expected a path such as "order.total", or a list of paths'
        )
    return paths(*written)


def _meaning(file: File, name: str, meaning: Any) -> int:
    number = _MEANINGS.get(meaning) if isinstance(meaning, str) else None
    if number is None:
        near = get_close_matches(str(meaning), _MEANINGS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"envelope {file}: names.{name} is {meaning!r:.40}, expected one of {', '.join(_MEANINGS)}{meant}"
        )
    return number
