"""Reading: fields that several envelopes read in the same way, on the tolerant way."""

from __future__ import annotations

from typing import Any

import msgspec

from stream.decode.placeholders import shown
from stream.decode.tolerant import Reader

__all__ = ["amount_with_currency", "found", "review_text"]


def amount_with_currency(reader: Reader, key: str, value: Any) -> tuple[Any, Any]:
    """An amount, and its currency where the two come as one object: ``{"amount": "12.00", "currency": "USD"}``."""
    if isinstance(value, dict):
        # Shopify wraps it once more, beside the same amount in the buyer's currency.
        inner = value.get("shop_money", value)
        if isinstance(inner, dict):
            name = next((name for name in ("amount", "value", "total") if name in inner), None)
            if name is not None:
                code = inner.get("currency") or inner.get("currency_code")
                return reader.amount(key, inner[name]), reader.currency(code)
    return reader.amount(key, value), None


def review_text(text: Any, reader: Reader) -> msgspec.Raw:
    """The text of a review as JSON; empty if there is none."""
    if isinstance(text, str):
        return msgspec.Raw(msgspec.json.encode(text))
    if text is not None and text is not False:
        reader.noted.add("text")
    return msgspec.Raw()


def found(value: Any) -> str:
    """The value for a message that says what was found."""
    return "missing" if value is None else shown(value)
