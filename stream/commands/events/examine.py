"""Examine: what would become of some events under an envelope, by the decoder that the worker uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from stream.contract.events import EventType
from stream.decode.decoder import Decoder
from stream.decode.envelopes.presets import PRESETS
from stream.decode.money import Money, Order, Paid
from stream.decode.placeholders import Placeholders
from stream.registry.schemas import Schemas
from stream.settings import Settings, zone_of

__all__ = ["Findings", "best_envelope", "examine"]

#: An event may be this much newer than its record before its clock counts as fast.
_FAST_S: Final = 5
#: So many records are tried under every preset.
_TRIED_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Findings:
    """What would become of ``n_records`` records.

    ``types`` counts the usable events by type, ``dead`` the dead letters by reason; ``examples`` has one message for
    each reason. ``n_keyed`` counts the events whose record has a key, ``n_other_keys`` those of them whose key is not
    the user. Times are in seconds since 1970.
    """

    envelope: str
    n_records: int
    types: dict[str, int]
    n_ignored: int
    dead: dict[str, int]
    examples: dict[str, str]
    unknown_names: dict[str, int]
    fields_ignored: dict[str, int]
    currencies: dict[str, int]
    users: int
    n_keyed: int
    n_other_keys: int
    first_time: int | None
    last_time: int | None
    n_fast_clocks: int

    @property
    def n_known(self) -> int:
        """Usable events of a type that says what happened."""
        return sum(n for name, n in self.types.items() if name != "other")

    @property
    def is_fit(self) -> bool:
        """Whether at least half of the records can be used, and at least half of the events say what happened."""
        n_events = sum(self.types.values())
        return 2 * (self.n_ignored + sum(self.dead.values())) <= self.n_records and 2 * self.n_known >= n_events > 0


@dataclass(slots=True)
class _CountingMoney:
    """Money that counts the currencies it is asked about, and takes every amount as one of its own."""

    money: Money
    currencies: Counter[str] = field(default_factory=Counter)

    def paid(self, order: Order) -> Paid:
        self.currencies[str(order.currency or "none named")] += 1
        return self.money.paid(order._replace(currency=None))


def examine(records: Sequence[Any], settings: Settings, *, now: float, schemas: Schemas | None = None) -> Findings:
    """What would become of these records under the envelope of the settings, at wall-clock time ``now``.

    An amount in any currency counts as readable: which rates there are is the worker's to say. ``schemas`` must hold
    the schemas of the records, if these are in the Confluent wire format.
    """
    money = _CountingMoney(Money("USD", decimal_comma=settings.decimal_comma))
    decoder = Decoder(
        settings.envelope,
        money,  # type: ignore[arg-type]  # the decoder only asks what was paid
        bytes_max=settings.event_bytes_max,
        future_skew_s=settings.future_skew_s,
        placeholders=Placeholders(settings.placeholder_ids),
        zone=zone_of(settings.naive_time_zone),
        content_of=schemas.content if schemas else None,
    )
    out = decoder.decode(records, now)
    rows, users = out.batch.rows, out.batch.users
    keys = [getattr(record, "key", None) for record in out.records]
    keyed = [(key, user) for key, user in zip(keys, users, strict=True) if key is not None]
    types = Counter(rows["type"].tolist())
    arrivals = np.array([getattr(record, "timestamp", 0) or 0 for record in out.records], np.int64) // 1000
    times = rows["time"].astype(np.int64)
    return Findings(
        envelope=settings.envelope,
        n_records=len(records),
        types={kind.name.lower(): types[kind] for kind in EventType if types[kind]},
        n_ignored=out.n_ignored,
        dead=dict(Counter(letter.reason for letter in out.dead).most_common()),
        examples={letter.reason: letter.message for letter in reversed(out.dead)},
        unknown_names=dict(decoder.unknown_names.most_common()),
        fields_ignored=dict(out.fields_ignored),
        currencies=dict(money.currencies.most_common()),
        users=len(set(users)),
        n_keyed=len(keyed),
        n_other_keys=sum(key != user.encode() for key, user in keyed),
        first_time=int(times.min()) if len(times) else None,
        last_time=int(times.max()) if len(times) else None,
        n_fast_clocks=int(np.count_nonzero((arrivals > 0) & (times > arrivals + _FAST_S))),
    )


def best_envelope(
    records: Sequence[Any], settings: Settings, *, now: float, schemas: Schemas | None = None
) -> str | None:
    """The preset under which most of these records say what happened; None if that is the envelope of the settings."""
    tried = records[:_TRIED_MAX]

    def n_known(envelope: str) -> int:
        under = settings.model_copy(update={"envelope": envelope})
        return examine(tried, under, now=now, schemas=schemas).n_known

    score = {name: n_known(name) for name in dict.fromkeys((settings.envelope, *PRESETS))}
    best = max(score, key=lambda name: score[name])
    return best if score[best] > score[settings.envelope] else None
