"""Paths: where a field stands in an event, such as ``order.items.0.sku``.

The parts of a path are the keys of objects and the indices of lists. A key that holds a dot is written with ``\\.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from stream.decode.tolerant import from_text

__all__ = ["Path", "attribute_at", "parts_of", "struct_of", "value_at"]

Path: TypeAlias = tuple[str, ...]
_DOT: Final = re.compile(r"(?<!\\)\.")


def parts_of(path: str) -> Path:
    r"""The parts of a path as it is written.

    >>> parts_of(r"order.items.0.price\.net")
    ('order', 'items', '0', 'price.net')
    """
    return tuple(part.replace(r"\.", ".") for part in _DOT.split(path))


def value_at(event: Any, path: Path) -> Any:
    """What stands there in a JSON object; None if nothing does. JSON that came as text is looked into.

    >>> value_at({"a": '[{"b": 1}]'}, ("a", "0", "b"))
    1
    """
    for part in path:
        inside = from_text(event)
        if isinstance(inside, dict):
            event = inside.get(part)
        elif isinstance(inside, list) and part.isdecimal() and int(part) < len(inside):
            event = inside[int(part)]
        else:
            return None
    return event


def struct_of(fields: Mapping[Path, Any], required: Path) -> type | None:
    """A typed struct with a field of each type at its path, to be read by :func:`attribute_at`.

    Only the field at ``required`` must be there. Returns None where no struct can be: a path goes through a list, one
    field would hold another, or a key holds a quote or a control character.
    """
    tree: dict[str, Any] = {}
    for path, kind in fields.items():
        if any(part.isdecimal() for part in path):
            return None
        inner = tree
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                return None
        if inner.setdefault(path[-1], kind) is not kind:
            return None
    try:
        return _struct("Event", tree, required)
    except ValueError:
        # A key holds a character that msgspec lets no field have.
        return None


def attribute_at(path: Path) -> str:
    """The dotted attribute of a struct of :func:`struct_of` that holds the field at this path."""
    return ".".join(map(_attribute, path))


def _struct(name: str, tree: Mapping[str, Any], required: Path) -> type:
    fields: list[Any] = []
    for key, inner in tree.items():
        must, rest = required[:1] == (key,), required[1:] if required[:1] == (key,) else ()
        kind = _struct(f"{name}_{_attribute(key)}", inner, rest) if isinstance(inner, dict) else inner
        # An object that is not there reads as an empty one, so that no field needs to be looked for step by step.
        default = msgspec.Raw() if kind is msgspec.Raw else kind() if isinstance(inner, dict) and not must else None
        fields.append((_attribute(key), kind) if must else (_attribute(key), kind, default))
    renamed = {_attribute(key): key for key in tree}
    return msgspec.defstruct(name, fields, rename=renamed, frozen=True, gc=False, kw_only=True)


def _attribute(key: str) -> str:
    return f"f_{key}" if key.isidentifier() else f"x_{key.encode().hex()}"
