"""Currency: every user's money is in one currency, and the state says in which."""

from __future__ import annotations

from stream.arrays import Rows, UserRows
from stream.errors import ContractError

__all__ = ["check_currency", "name_currency"]


def name_currency(users: UserRows, rows: Rows, currency: str) -> None:
    """Name the currency of those of these users whose release did not know currencies yet."""
    column = users["currency"]
    column[rows[column[rows] == b""]] = currency.encode()


def check_currency(users: UserRows, currency: str) -> None:
    """Refuse money of another currency: it would be added to ours as if it were the same. Raises ContractError."""
    found = users["currency"]
    others = found[(found != currency.encode()) & (found != b"")]
    if len(others):
        raise ContractError(
            f"the state counts money in {others[0].decode(errors='replace')}, and the model in {currency};"
            " expected the same currency; serve a model of the currency of the state, or give a new --app-id, under"
            " which the state is made anew from the events that are still there"
        )
