"""Amounts: numbers of money as senders write them: with signs, spaces, thousands, a comma for a point.

A comma or a point is read only if it is certain what it means. ``1,234`` may be a thousand, or one and a bit. A guess
would make some orders a thousand times too large, so such an amount is refused unless ``decimal_comma`` decides.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from stream.decode.placeholders import shown
from stream.errors import EventError

__all__ = ["MINOR_DIGITS", "amount_of"]

#: ISO 4217: currencies whose minor unit has another number of digits than two.
MINOR_DIGITS: Final[dict[str, int]] = {
    **dict.fromkeys(
        (
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
        ),
        0,
    ),
    "XPF": 0,
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
#: Longer text is no amount.
_TEXT_MAX: Final = 60
#: What stands around the digits: currency signs, codes and words of up to four letters, with or without a dot.
_LETTER: Final = r"[^\W\d_]"
_SIGN: Final = r"[\u0024\u00a2-\u00a5\u058f\u060b\u09f2\u0e3f\u20a0-\u20cf]"
_AROUND: Final = re.compile(rf"(?:(?<!{_LETTER}){_LETTER}{{1,4}}\.?(?!{_LETTER})|{_SIGN})*")
#: What separates thousands and cannot be a decimal sign.
_SPACES: Final = re.compile(r"[\s\u00a0\u2007\u2009\u202f'’_]+")
_SPACED: Final = re.compile(r"[.,]?\d+(?: \d+)+")
_SPACED_GROUPS: Final = re.compile(r"\d{1,3}(?: \d{3})+")
#: ``12,-`` and ``12.--``: no hundredths. It is no minus sign.
_NO_HUNDREDTHS: Final = re.compile(r"(?<=\d)[.,]-{1,2}")
_MINUS: Final = str.maketrans({"−": "-", "–": "-", "﹣": "-", "-": "-", ",": ",", ".": "."})
#: A point behind letters ends their abbreviation: ``Rs.500`` is no half rupee.
_DIGITS: Final = re.compile(rf"\d+(?:[.,]\d+)*[.,]?|(?<!{_LETTER})[.,]\d+")
_EXPONENT: Final = re.compile(r"[+-]?\d+(?:\.\d+)?[eE][+-]?\d{1,3}")
#: A separator with this many digits behind it may separate thousands.
_GROUP: Final = 3
_GROUPS: Final = re.compile(r"\d{1,3}([.,]\d{3})*|\d{1,2}([.,]\d{2})+[.,]\d{3}")


def amount_of(value: Any, *, decimal_comma: bool | None = None, minor_digits: int = 2) -> float:
    """The number that an amount says. Raises EventError ``amount`` if it is none, or if it can be read in two ways.

    ``decimal_comma`` decides what can be read in two ways: True, a comma is the decimal sign; False, a point is; None,
    nobody knows. ``minor_digits`` is how many digits the currency has behind the decimal sign.

    >>> [amount_of(text) for text in ("12,50", "1.234,56", "12,99 €", "US$ 1 234.50", "(3.20)", "1'000", "-5")]
    [12.5, 1234.56, 12.99, 1234.5, -3.2, 1000.0, -5.0]
    >>> amount_of("1,234", decimal_comma=True), amount_of("1.234", minor_digits=3)
    (1.234, 1.234)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(value, value)
    if not isinstance(value, str):
        raise _unreadable(value, "a number")
    if len(value) > _TEXT_MAX:
        raise _unreadable(value, f"at most {_TEXT_MAX} characters")
    text = _SPACES.sub(" ", value.translate(_MINUS)).strip()
    if not all(_SPACED_GROUPS.fullmatch(found[0]) for found in _SPACED.finditer(text)):
        raise _unreadable(value, "one number")
    text = _NO_HUNDREDTHS.sub("", text.replace(" ", ""))
    if _EXPONENT.fullmatch(text):
        return _finite(float(text), value)
    digits, negative = _digits(text, value)
    number = float(_with_point(digits, value, decimal_comma, minor_digits))
    return _finite(-number if negative else number, value)


def _digits(text: str, value: Any) -> tuple[str, bool]:
    """The digits and separators of an amount, and whether it is below zero."""
    found = _DIGITS.search(text)
    if found is None:
        raise _unreadable(value, "a number")
    before, after = text[: found.start()], text[found.end() :]
    in_brackets = before.startswith("(") and after.endswith(")")
    if in_brackets:
        before, after = before[1:], after[:-1]
    signs = [part for part in (before, after) if "-" in part]
    around = [part.replace("-", "", 1).replace("+", "", 1) for part in (before, after)]
    if len(signs) + in_brackets > 1 or not all(_AROUND.fullmatch(part) for part in around):
        raise _unreadable(value, "one number")
    return found[0], bool(signs) or in_brackets


def _with_point(digits: str, value: Any, decimal_comma: bool | None, minor_digits: int) -> str:
    """The same number, with a point as its only separator."""
    commas, points = digits.count(","), digits.count(".")
    if commas and points:
        decimal = "," if digits.rindex(",") > digits.rindex(".") else "."
        if digits.count(decimal) > 1:
            raise _unreadable(value, "one decimal sign")
        return _joined(digits, decimal, value)
    if commas + points == 0:
        return digits
    sign = "," if commas else "."
    if commas + points > 1:
        return _joined(digits, "." if commas else ",", value)
    whole, _, rest = digits.partition(sign)
    may_be_thousands = len(rest) == _GROUP and 1 <= len(whole) <= _GROUP and not whole.startswith("0")
    if not may_be_thousands or (minor_digits == _GROUP and sign == "."):
        return f"{whole or 0}.{rest or 0}"
    if minor_digits == 0:
        return whole + rest
    if decimal_comma is None:
        raise EventError(
            "amount",
            f"amount is {shown(value)}, which may be {whole}{rest} or {whole}.{rest}; expected a certain amount; "
            "send it as a number, or set --decimal-comma",
        )
    return f"{whole}.{rest}" if decimal_comma == (sign == ",") else whole + rest


def _joined(digits: str, decimal: str, value: Any) -> str:
    """Without the separators of thousands. Each has three digits behind it; in India, two if it is not the last."""
    whole, _, rest = digits.partition(decimal)
    if not _GROUPS.fullmatch(whole):
        raise _unreadable(value, "groups of three digits")
    return f"{re.sub('[.,]', '', whole)}.{rest or 0}"


def _finite(number: float, value: Any) -> float:
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _unreadable(value, "a finite number")
    return number


def _unreadable(value: Any, expected: str) -> EventError:
    return EventError("amount", f"amount is {shown(value)}, expected {expected}; mend the sender")
