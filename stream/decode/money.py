"""Money: say what was paid, in whole hundredths of one reporting currency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from stream.contract.events import VALUE_LIMIT, VALUE_SCALE
from stream.decode.amounts import MINOR_DIGITS, amount_of
from stream.decode.placeholders import is_no_amount, shown
from stream.errors import ConfigError, EventError

__all__ = ["Amount", "Line", "Money", "Order", "Paid"]

Amount = float | int | str | None
#: A larger number of money is refused in any currency. Integers may be too large for a float.
_HUGE: Final = 10**30


class Line(Protocol):
    """A line of an order: the price of one piece, and how many pieces."""

    @property
    def price(self) -> Amount: ...  # noqa: D102
    @property
    def quantity(self) -> Amount: ...  # noqa: D102


class Order(NamedTuple):
    """What an event says about money.

    The first of ``amounts`` that is given counts. If none is, the sum of price × quantity over the lines does.
    ``listed`` says that the event lists its lines, so that they are all lines of the order. Otherwise the event itself
    is the only line, and others may come.
    """

    order_id: str | int | None
    amounts: Sequence[Amount]
    currency: str | None
    lines: Sequence[Line]
    listed: bool


class Paid(NamedTuple):
    """What an order comes to, in hundredths. ``whole`` says that it is all of the order, and not one line of it.

    ``given`` is False if the event names no amount at all; the value is 0 then.
    """

    value: int
    whole: bool
    given: bool


@dataclass(frozen=True, slots=True)
class Money:
    """The reporting currency, and what one unit of each other currency is worth in it.

    Raises ConfigError for a rate that is not above zero. ``decimal_comma`` decides what ``1,234`` is: True, one and a
    bit; False, a thousand; None, an event that becomes a dead letter.
    """

    currency: str
    rates: Mapping[str, float] = field(default_factory=dict)
    decimal_comma: bool | None = None

    def __post_init__(self) -> None:
        for currency, rate in self.rates.items():
            if not 0 < rate < math.inf:
                raise ConfigError(f"rate of {currency} is {rate}, expected a number above 0; set --fx-rates")
        # Currencies are compared in capitals, because senders write them in any case.
        rates = {currency.strip().upper(): rate for currency, rate in self.rates.items()}
        object.__setattr__(self, "rates", rates)

    def paid(self, order: Order) -> Paid:
        """What an order comes to.

        Raises EventError for an amount that is not a number, and wherever :meth:`hundredths` does.
        """
        currency = order.currency
        if currency is not None and currency != self.currency:
            currency = _code(currency)
        for given in order.amounts:
            if type(given) is float:
                return Paid(self.hundredths(given, currency), True, True)
            if not is_no_amount(given):
                return Paid(self.hundredths(self._number(given, currency), currency), True, True)
        priced = not all(is_no_amount(line.price) for line in order.lines)
        value = self.hundredths(self._line_total(order.lines, currency), currency)
        return Paid(value, whole=order.listed and priced, given=priced)

    def hundredths(self, amount: float, currency: str | None) -> int:
        """Convert an amount to hundredths of the reporting currency.

        Raises EventError for a currency without a rate, and for an amount too large to be stored.
        """
        if currency and currency != self.currency and amount:
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

    def _number(self, amount: Amount, currency: str | None) -> float:
        if type(amount) is float:
            return amount
        if type(amount) is int:
            return float(max(-_HUGE, min(amount, _HUGE)))
        digits = MINOR_DIGITS.get(currency or self.currency, 2)
        return amount_of(amount, decimal_comma=self.decimal_comma, minor_digits=digits)

    def _line_total(self, lines: Sequence[Line], currency: str | None) -> float:
        return sum(
            (0.0 if is_no_amount(line.price) else self._number(line.price, currency))
            * (1.0 if is_no_amount(line.quantity) else self._number(line.quantity, None))
            for line in lines
        )


def _code(currency: object) -> str | None:
    """A currency code in capitals; None if there is none. What is not text is shown, and has no rate."""
    if not isinstance(currency, str):
        return shown(currency)
    return None if is_no_amount(currency) else currency.strip().upper()
