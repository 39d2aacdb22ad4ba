"""Tolerant: reads the fields of events that do not fit the typed shape of their envelope.

It is strict about who, when, what, and of orders how much. Every other field that cannot be read is left out of its
event and counted; it never costs an order. Ordinary events do not come here: this way takes many times as long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Any, Final

from stream.decode.fields import TIME_MAX
from stream.decode.placeholders import Placeholders, Unreadable, is_no_amount, shown, text_of
from stream.decode.times import seconds_of
from stream.decode.wire import json_of
from stream.errors import EventError
from stream.metrics import IGNORABLE_FIELDS

__all__ = ["IGNORABLE_FIELDS", "Reader", "from_text"]

#: A list or object that came as text is read up to this many characters.
_JSON_TEXT_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads single fields of JSON objects.

    ``noted`` are the fields that the present event does without. ``ignored`` counts those of the events before.
    """

    placeholders: Placeholders
    #: The zone of times that name none.
    zone: tzinfo = UTC
    noted: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)

    def somebody(self, ids: Iterable[Any]) -> str:
        """The first of these ids that stands for somebody. Raises EventError ``user``."""
        given = [one for one in ids if one is not None and one != ""]
        if not given:
            raise EventError("user", "user id is missing, expected a string or a number")
        for one in given:
            user = self.placeholders.identifier(one)
            if user is not None:
                return user
        raise EventError(
            "user", f"user id is {shown(given[0])}, which stands for nobody; expected an id; mend the sender"
        )

    def seconds(self, value: Any) -> int:
        """A time, in seconds since 1970. Raises EventError ``timestamp``."""
        if is_no_amount(value):
            raise EventError(
                "timestamp", "timestamp is missing, expected ISO 8601, or seconds or milliseconds since 1970"
            )
        seconds = seconds_of(value, self.zone)
        if seconds is None or not 1 <= seconds <= TIME_MAX:
            raise EventError(
                "timestamp",
                f"timestamp is {shown(value)}, expected ISO 8601, or seconds or milliseconds since 1970",
            )
        return seconds

    def identifier(self, key: str, value: Any) -> str | None:
        """The id of an event or an order, None for a placeholder."""
        if value is not None and text_of(value) is None:
            self.noted.add(key)
        return self.placeholders.identifier(value)

    def name(self, key: str, value: Any) -> str | None:
        """The name of an item or a category."""
        if value is None or value is False:
            return None
        text = text_of(value)
        if text is None:
            self.noted.add(key)
        return text

    def amount(self, key: str, value: Any) -> Any:
        """An amount, as it came. None if there is none."""
        if isinstance(value, str) or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return value
        return None if value is None or value is False or value == {} else self._unreadable(key, value)

    def currency(self, value: Any) -> Any:
        """A currency code, as it came. None if there is none."""
        if value is None or value is False or isinstance(value, str):
            return value or None
        return self._unreadable("currency", value)

    def an_object(self, key: str, value: Any) -> dict[str, Any] | Unreadable:
        """A JSON object. PHP writes an empty one as a list, and others write it as text."""
        value = from_text(value)
        if isinstance(value, dict):
            return value
        return {} if value is False or value == [] or is_no_amount(value) else self._unreadable(key, value)

    def objects(self, key: str, value: Any) -> list[dict[str, Any] | Unreadable]:
        """A list of JSON objects, which may have come as text or as an object by index.

        Placeholders and empty lists in it are left out. If others cannot be read, the last element stands for all.
        """
        value = from_text(value)
        if isinstance(value, dict):
            by_index = all(index.isdecimal() for index in value)
            value = list(value.values()) if by_index else [value]
        if not isinstance(value, list):
            return [] if value is False or is_no_amount(value) else [self._unreadable(key, value)]
        objects: list[dict[str, Any] | Unreadable] = []
        unreadable: list[dict[str, Any] | Unreadable] = []
        for one in map(from_text, value):
            if isinstance(one, dict):
                objects.append(one)
            elif one != [] and not is_no_amount(one) and not unreadable:
                unreadable.append(self._unreadable(key, one))
        return objects + unreadable

    def _unreadable(self, key: str, value: Any) -> Unreadable:
        self.noted.add(key)
        return Unreadable([value])


def from_text(value: Any) -> Any:
    """The JSON in a text that holds some, and any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") and len(value) <= _JSON_TEXT_MAX:
        try:
            return json_of(value.encode())
        except EventError:
            return value
    return value
