"""Placeholders: what senders write where they have no id, no amount and no name. One list serves all three."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

__all__ = ["Placeholders", "text_of"]

#: Lower case, without spaces around.
_ABSENT: Final = frozenset(
    {
        "",
        *("undefined", "null", "none", "nil", "nan", "n/a", "na", "#n/a", "void", "empty", "unknown", "-", "--", "?"),
        *("anonymous", "anon", "guest", "not set", "(not set)", "(none)", "(null)", "not_set", "[object object]", "{}"),
        *("[]", "true", "false", "00000000-0000-0000-0000-000000000000", "00000000000000000000000000000000"),
    }
)
#: Ids that stand for nobody, but are fair as an amount or a category.
_ABSENT_IDS: Final = _ABSENT | {"0", "-1", "0.0"}
#: Whole floats up to here are exact, so an id that went through a float is known again.
_EXACT_MAX: Final = 2**53


def text_of(value: Any) -> str | None:
    """An id or a name as text, None if it is neither text nor a number. An id that went through a float is the same id.

    >>> text_of(541312140.0), text_of(17), text_of(" 17 "), text_of(["17"])
    ('541312140', '17', '17', None)
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_MAX:
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    return None


class Placeholders:
    """Tells ids from what stands for none; ``more`` are further words of one shop."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        own = frozenset(word.strip().lower() for word in more)
        self._names, self.ids = _ABSENT | own, _ABSENT_IDS | own

    def identifier(self, value: Any) -> str | None:
        """The id as text, None if it stands for nobody and nothing.

        >>> known = Placeholders(["test"])
        >>> known.identifier("Undefined"), known.identifier(0), known.identifier("Test"), known.identifier("ann")
        (None, None, None, 'ann')
        """
        text = text_of(value)
        return None if text is None or text.lower() in self.ids else text

    def name(self, value: Any) -> str | None:
        """The name as text, None if it is a placeholder."""
        text = text_of(value)
        return None if text is None or text.lower() in self._names else text
