"""Placeholders: what senders write where they have no id, no amount and no name. One list serves all three."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

__all__ = ["Placeholders", "is_no_amount", "text_of"]

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


def is_no_amount(value: Any) -> bool:
    """Whether a sender writes this for "no amount". ``NaN`` is not among them: an amount was there, and is lost."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _ABSENT - {"nan"})


class Placeholders:
    """Tells ids from what stands for none; ``more`` are further words of one shop."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        own = frozenset(word.strip().lower() for word in more)
        self._names, self._ids = _ABSENT | own, _ABSENT_IDS | own
        #: The ids that stand for nobody, as they are usually spelt. To look one up costs an ordinary event little.
        self.spelt: frozenset[str] = frozenset(_spellings(self._ids))

    def identifier(self, value: Any) -> str | None:
        """The id as text, None if it stands for nobody and nothing.

        >>> known = Placeholders(["test"])
        >>> known.identifier("Undefined"), known.identifier(0), known.identifier("Test"), known.identifier("ann")
        (None, None, None, 'ann')
        """
        text = text_of(value)
        return None if text is None or text.lower() in self._ids else text

    def name(self, value: Any) -> str | None:
        """The name as text, None if it is a placeholder."""
        text = text_of(value)
        return None if text is None or text.lower() in self._names else text


def _spellings(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        yield from (word, word.upper(), word.title(), word.capitalize())
    yield from ("NaN", "[object Object]", "#N/A", *(" " * n for n in range(1, 9)))
