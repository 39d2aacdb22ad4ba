"""Money: say what was paid, in whole hundredths of one reporting currency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from stream.contract.events import VALUE_LIMIT, VALUE_SCALE
from stream.errors import EventError

__all__ = ["ABSENT", "Amount", "Line", "Money", "Order"]

#: What senders write when they have no id or no amount.
ABSENT: Final = (None, "")

Amount = float | int | str | None


class Line(Protocol):
    """A line of an order: the price of one piece, and how many pieces."""

    @property
    def price(self) -> Amount: ...  # noqa: D102
    @property
    def quantity(self) -> Amount: ...  # noqa: D102


class Order(NamedTuple):
    """What an event says about money. If ``amount`` is absent, it is the sum of price × quantity over the lines."""

    order_id: str | int | None
    amount: Amount
    currency: str | None
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Money:
    """The reporting currency, and what one unit of each other currency is worth in it."""

    currency: str
    rates: Mapping[str, float] = field(default_factory=dict)

    def paid(self, order: Order) -> int:
        """What an order comes to, in hundredths.

        Raises EventError for an amount that is not a number, and wherever :meth:`hundredths` does.
        """
        amount = _line_total(order.lines) if order.amount in ABSENT else _number(order.amount)
        return self.hundredths(amount, order.currency) if amount else 0

    def hundredths(self, amount: float, currency: str | None) -> int:
        """Convert an amount to hundredths of the reporting currency.

        Raises EventError for a currency without a rate, and for an amount too large to be stored.
        """
        if currency and currency != self.currency:
            rate = self.rates.get(currency)
            if rate is None:
                raise EventError(
                    "currency",
                    f"currency is {currency!r:.40}, expected {self.currency!r} or one with a rate; set --fx-rates",
                )
            amount *= rate
        value = amount * VALUE_SCALE
        if not -VALUE_LIMIT <= value <= VALUE_LIMIT:
            raise EventError("value", f"value is {amount:.10g}, expected at most ±{VALUE_LIMIT / VALUE_SCALE:.10g}")
        return round(value)


def _number(amount: Amount) -> float:
    try:
        number = float(amount or 0)
    except ValueError:
        raise EventError("schema", f"amount is {amount!r:.40}, expected a number") from None
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EventError("value", f"amount is {amount!r:.40}, expected a finite number")
    return number


def _line_total(lines: Sequence[Line]) -> float:
    return sum(_number(line.price) * _number(1 if line.quantity in ABSENT else line.quantity) for line in lines)
