"""Placeholders: what senders write where they have no id, no amount and no name. One list serves all three."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

__all__ = ["Placeholders", "Unreadable", "is_no_amount", "shown", "text_of"]

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


class Unreadable(list[Any]):
    """A field that cannot be read, with what it holds. An order that needs it is refused; other events do without."""


def text_of(value: Any) -> str | None:
    """An id or a name as text, None if it cannot be one. An id that went through a float is the same id.

    A float that is not whole is no id, nor is one so large that it may have lost its last digits.

    >>> text_of(541312140.0), text_of(17), text_of("17"), text_of(["17"]), text_of(True), text_of(1e300)
    ('541312140', '17', '17', None, None, None)
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_MAX:
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def shown(value: Any) -> str:
    """The value for a message: the beginning of text or a number, and only the kind of a list or an object.

    >>> shown("soon"), shown(["secret"]), shown({}), shown("x" * 99)[-3:]
    ("'soon'", 'a list', 'an object', 'xxx')
    """
    if isinstance(value, Unreadable):
        value = value[0]
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"{value!r:.40}"


def is_no_amount(value: Any) -> bool:
    """Whether a sender writes this for "no amount". ``NaN`` is not among them: an amount was there, and is lost."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _ABSENT - {"nan"})


class Placeholders:
    """Tells ids from what stands for none; ``more`` are further words of one shop."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        own = frozenset(word.strip().lower() for word in more)
        #: Names that are none, as they are usually spelt.
        self.names: frozenset[str] = frozenset(_spellings(_ABSENT | own))
        #: Ids that stand for nobody, as they are usually spelt. To look one up costs an ordinary event little.
        self.ids: frozenset[str | int | None] = frozenset(_spellings(_ABSENT_IDS | own)) | {None, 0, -1}

    def identifier(self, value: Any) -> str | None:
        """The id as text, None if it stands for nobody and nothing.

        >>> known = Placeholders(["test"])
        >>> known.identifier("Undefined"), known.identifier(0), known.identifier("Test"), known.identifier("ann")
        (None, None, None, 'ann')
        """
        text = text_of(value)
        return None if text in self.ids else text


def _spellings(words: Iterable[str]) -> Iterator[str]:
    """Each word in the cases in which it is written, and with a space around; and what is blank."""
    for word in words:
        for spelt in (word, word.upper(), word.title(), word.capitalize()):
            yield from (spelt, f" {spelt}", f"{spelt} ")
    yield from ("NaN", "[object Object]", "#N/A", "\t", "\n", "\r\n", "\u00a0", *(" " * n for n in range(1, 9)))
