"""Mapped: reads events of any shape, by the paths of their fields.

The paths are compiled to a typed struct, so that a mapping is as fast as a preset. Where no struct can hold them, as
for a path through the elements of a list, all events go the tolerant way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from stream.decode.envelopes.envelope import Envelope, Event, Fields, Json, text_of_review
from stream.decode.envelopes.mapping import LineMapping, MappedEnvelope, Paths
from stream.decode.envelopes.paths import Path, attribute_at, struct_of, value_at
from stream.decode.envelopes.reading import amount_with_currency, found, review_text
from stream.decode.fields import Name, Time
from stream.decode.money import Amount, Order
from stream.decode.placeholders import Unreadable, is_no_amount
from stream.decode.tolerant import Reader
from stream.errors import EventError

__all__ = ["envelope_of_mapping", "reader_of"]


class _Line(NamedTuple):
    price: Amount
    quantity: Amount


# -- the tolerant way -----------------------------------------------------------------------------------------


def reader_of(mapping: MappedEnvelope) -> Callable[[Json, Reader, Any], Event]:
    """What reads an event by this mapping on the tolerant way."""

    def read(event: Json, reader: Reader, _record: Any) -> Event:
        lines = _lines(mapping, event, reader)
        lead = lines[0] if lines and isinstance(lines[0], dict) else {}
        item = _first(reader.name("item", value) for value in _values(event, mapping.item))
        category = _first(reader.name("category", value) for value in _values(event, mapping.category))
        if item is None:
            item = _first(reader.name("item", value) for value in _values(lead, mapping.line.item))
            in_line = _first(reader.name("category", value) for value in _values(lead, mapping.line.category))
            category = category if in_line is None else in_line
        return Event(
            name=_name(mapping, event),
            user=reader.somebody(_values(event, mapping.user)),
            time=reader.seconds(_first(_values(event, mapping.time))),
            event_id=_first(reader.identifier("event_id", value) for value in _values(event, mapping.id)),
            category=category,
            item=item,
            order=_order(mapping, event, lines, reader),
            text=text_of_review(review_text(_first(_values(event, mapping.text)), reader)),
        )

    return read


def _name(mapping: MappedEnvelope, event: Json) -> str:
    name = mapping.always or _first(_values(event, mapping.type))
    if not isinstance(name, str):
        raise EventError("schema", f"type is {found(name)}, expected the name of the event; see --envelope")
    return name


def _lines(mapping: MappedEnvelope, event: Json, reader: Reader) -> list[dict[str, Any] | Unreadable]:
    lines = _first(_values(event, mapping.lines))
    return [] if lines is None else reader.objects("products", lines)


def _order(mapping: MappedEnvelope, event: Json, lines: list[dict[str, Any] | Unreadable], reader: Reader) -> Order:
    amounts = [amount_with_currency(reader, "price", value) for value in _values(event, mapping.amount)]
    price, in_price = amount_with_currency(reader, "price", _first(_values(event, mapping.price)))
    named = [currency for _, currency in amounts if currency]
    currency = reader.currency(_first(_values(event, mapping.currency))) or next(iter(named), in_price)
    own = (_Line(price, reader.amount("quantity", _first(_values(event, mapping.quantity)))),)
    listed = tuple(_line(mapping.line, line, reader) for line in lines)
    order_id = _first(reader.identifier("order_id", value) for value in _values(event, mapping.order))
    return Order(order_id, tuple(amount for amount, _ in amounts), currency, listed or own, listed=bool(listed))


def _line(mapping: LineMapping, line: dict[str, Any] | Unreadable, reader: Reader) -> _Line:
    if isinstance(line, Unreadable):
        return _Line(line, None)  # type: ignore[arg-type]  # the order is refused for it
    price, _ = amount_with_currency(reader, "price", _first(_values(line, mapping.price)))
    return _Line(price, reader.amount("quantity", _first(_values(line, mapping.quantity))))


def _values(event: Any, paths: Paths) -> Iterable[Any]:
    return [value_at(event, path) for path in paths]


def _first(values: Iterable[Any]) -> Any:
    """The first of these that is something."""
    given = None
    for value in values:
        if not is_no_amount(value):
            return value
        given = value if given is None else given
    return given


# -- the fast way ---------------------------------------------------------------------------------------------

#: A path that no sender has anything at.
_NOWHERE: Final[Path] = ("valuestream: nothing",)
#: Place of the user in ``Fields``.
_USER: Final = 1


def envelope_of_mapping(mapping: MappedEnvelope) -> Envelope:
    """The envelope that reads events by this mapping."""
    read, shape = reader_of(mapping), _shape(mapping)
    if shape is None:
        return Envelope(read, mapping.names)
    return Envelope(read, mapping.names, shape, _fields(mapping), _order_of_shape(mapping), _text_of_shape(mapping))


def _shape(mapping: MappedEnvelope) -> type | None:
    """The typed struct of the mapping; None where there is none."""
    line_kinds = [(paths, Name) for paths in (mapping.line.item, mapping.line.category)]
    line_kinds += [(paths, Amount) for paths in (mapping.line.price, mapping.line.quantity)]
    line = struct_of({path: kind for paths, kind in line_kinds for path in paths}, _NOWHERE)
    # A name is not read from several places: where there are, the first may be missing.
    if line is None or len(mapping.type) > 1:
        return None
    lines = list[line] | None  # type: ignore[valid-type]  # mypy: the type is known only now
    kinds: list[tuple[Paths, Any]] = [
        *((paths, Name) for paths in (mapping.user, mapping.id, mapping.item, mapping.category, mapping.order)),
        *((paths, Amount) for paths in (mapping.amount, mapping.price, mapping.quantity)),
        (mapping.type, str),
        (mapping.time, Time),
        (mapping.currency, str | None),
        (mapping.text, msgspec.Raw),
        (mapping.lines, lines),
    ]
    fields: dict[Path, Any] = {_NOWHERE: None}
    for paths, kind in kinds:
        for path in paths:
            if fields.setdefault(path, kind) is not kind:
                return None
    return struct_of(fields, mapping.type[0] if mapping.type else ())


def _fields(mapping: MappedEnvelope) -> Callable[[Any], Fields]:
    """What takes the name, user, time, id, category and item out of the struct.

    Every event goes through it, so a mapping without alternatives is one call into C.
    """
    roles = (mapping.type, mapping.user, mapping.time, mapping.id, mapping.category, mapping.item)
    taken: Callable[[Any], Fields] = attrgetter(*(attribute_at(paths[0] if paths else _NOWHERE) for paths in roles))
    others = [(i, _getter(path)) for i, paths in enumerate(roles) if i != _USER for path in paths[1:]]
    take = _with_alternatives(taken, others) if others else taken
    if len(mapping.user) == 1 and not mapping.always and not mapping.lines:
        return take
    # A second path for the user is common, so it costs no loop.
    other_user = _first_of(mapping.user[1:])
    lead_item, lead_category, lines = map(_first_of, (mapping.line.item, mapping.line.category, mapping.lines))
    always, has_lines = mapping.always, bool(mapping.lines)

    def fields(event: Any) -> Fields:
        name, user, time, event_id, category, item = take(event)
        if user is None or user == "":
            user = other_user(event)
        if item is None and has_lines and (listed := lines(event)):
            item, in_line = lead_item(listed[0]), lead_category(listed[0])
            category = category if in_line is None else in_line
        return always or name, user, time, event_id, category, item

    return fields


def _with_alternatives(
    taken: Callable[[Any], Fields], others: list[tuple[int, Callable[[Any], Any]]]
) -> Callable[[Any], Fields]:
    """What takes a field from another place, given with its index among the fields, where there is none yet."""

    def fields(event: Any) -> Fields:
        values: list[Any] = list(taken(event))
        for i, other in others:
            if values[i] is None or values[i] == "":
                values[i] = other(event)
        return tuple(values)

    return fields


def _order_of_shape(mapping: MappedEnvelope) -> Callable[[Any], Order]:
    order_id, currency, lines = map(_first_of, (mapping.order, mapping.currency, mapping.lines))
    price, quantity = _first_of(mapping.price), _first_of(mapping.quantity)
    line_price, line_quantity = _first_of(mapping.line.price), _first_of(mapping.line.quantity)
    amounts = [_getter(path) for path in mapping.amount]

    def order(event: Any) -> Order:
        listed = tuple(_Line(line_price(line), line_quantity(line)) for line in lines(event) or ())
        own = (_Line(price(event), quantity(event)),)
        given = tuple(amount(event) for amount in amounts)
        return Order(order_id(event), given, currency(event), listed or own, listed=bool(listed))

    return order


def _text_of_shape(mapping: MappedEnvelope) -> Callable[[Any], msgspec.Raw]:
    texts = [_getter(path) for path in mapping.text]

    def text(event: Any) -> msgspec.Raw:
        return next((raw for raw in (get(event) for get in texts) if bytes(raw) not in (b"", b"null")), msgspec.Raw())

    return text


def _first_of(paths: Paths) -> Callable[[Any], Any]:
    """Takes the first of these fields that is there."""
    getters = [_getter(path) for path in paths]
    if len(getters) == 1:
        return getters[0]
    return lambda event: next((value for value in (get(event) for get in getters) if value not in (None, "")), None)


def _getter(path: Path) -> Callable[[Any], Any]:
    return attrgetter(attribute_at(path))
