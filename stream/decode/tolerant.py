"""Tolerant: reads the events that do not fit the typed shape of their envelope.

It is strict about who, when, what, and of orders how much. Every other field that cannot be read is left out of its
event and counted; it never costs an order. Ordinary events do not come here: this way takes many times as long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Any, Final

import orjson

from stream.decode.placeholders import Placeholders, is_no_amount, text_of
from stream.decode.times import seconds_of
from stream.errors import EventError

__all__ = ["IGNORABLE_FIELDS", "Reader"]

#: Fields that an event can do without; the labels of ``valuestream_fields_ignored_total``.
IGNORABLE_FIELDS: Final = ("category", "item", "price", "quantity", "currency", "properties", "products", "text")
#: A list or object that came as text is read up to this many characters.
_JSON_TEXT_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads single fields of JSON objects. ``ignored`` counts the fields that could not be read, by name."""

    placeholders: Placeholders
    #: The zone of times that name none.
    zone: tzinfo = UTC
    ignored: Counter[str] = field(default_factory=Counter)

    def user(self, candidates: Iterable[Any]) -> str | None:
        """The first of these ids that stands for somebody."""
        return next(filter(None, map(self.placeholders.identifier, candidates)), None)

    def seconds(self, value: Any) -> int:
        """A time, in seconds since 1970. Raises EventError ``timestamp``."""
        if value is None:
            raise EventError(
                "timestamp", "timestamp is missing, expected ISO 8601, or seconds or milliseconds since 1970"
            )
        seconds = seconds_of(value, self.zone)
        if seconds is None:
            raise EventError(
                "timestamp",
                f"timestamp is {value!r:.60}, expected ISO 8601, or seconds or milliseconds since 1970",
            )
        return seconds

    def identifier(self, value: Any) -> str | None:
        """The id of an event or an order, None for a placeholder."""
        return self.placeholders.identifier(value)

    def name(self, key: str, value: Any) -> str | None:
        """The name of an item or a category. What is neither text nor a number is ignored and counted."""
        if value is None or value is False:
            return None
        if text_of(value) is None:
            self._ignore(key)
            return None
        return self.placeholders.name(value)

    def amount(self, key: str, value: Any) -> Any:
        """An amount as it came, None for a placeholder. What can be no amount is ignored and counted."""
        if isinstance(value, str):
            return None if is_no_amount(value) else value
        if value is None or isinstance(value, bool):
            return None
        if isinstance(value, (int, float)):
            return value
        self._ignore(key)
        return None

    def currency(self, value: Any) -> str | None:
        """A currency code, None if there is none that can be read."""
        if value is None or isinstance(value, str):
            return self.placeholders.name(value)
        self._ignore("currency")
        return None

    def an_object(self, key: str, value: Any) -> dict[str, Any]:
        """A JSON object. PHP writes an empty one as a list, and others write it as text."""
        value = self._unpacked(value)
        if isinstance(value, dict):
            return value
        if value not in (None, [], ""):
            self._ignore(key)
        return {}

    def objects(self, key: str, value: Any) -> list[dict[str, Any]]:
        """A list of JSON objects, which may have come as text or as an object by index. Nulls in it are left out."""
        value = self._unpacked(value)
        if isinstance(value, dict):
            value = list(value.values()) if all(isinstance(v, (dict, type(None))) for v in value.values()) else [value]
        if not isinstance(value, list):
            if value not in (None, "", False):
                self._ignore(key)
            return []
        found = [self._unpacked(one) for one in value]
        if any(not isinstance(one, (dict, type(None))) for one in found):
            self._ignore(key)
        return [one for one in found if isinstance(one, dict)]

    def _unpacked(self, value: Any) -> Any:
        """JSON within JSON, once."""
        if isinstance(value, str) and value[:1] in ("{", "[") and len(value) <= _JSON_TEXT_MAX:
            try:
                return orjson.loads(value)
            except orjson.JSONDecodeError:
                return value
        return value

    def _ignore(self, key: str) -> None:
        self.ignored[key] += 1
