"""Schemas: reads records in the Confluent wire format, by schemas that are fetched once and kept.

Decoding must not wait, so the two are apart: first :meth:`Schemas.fetch` gets the schemas that a batch of records
needs, then :meth:`Schemas.content` reads each record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from stream.clock import Clock
from stream.errors import EventError, RegistryError, ValuestreamError
from stream.registry.avro import avro_reader
from stream.registry.client import Registry, Schema
from stream.registry.protobuf import protobuf_reader
from stream.registry.wire_format import SchemaKey, framed

__all__ = ["Schemas"]

#: How many schemas are kept. A shop has a few; the bound is for records that name a new one each.
_SCHEMAS_MAX: Final = 1_000
#: Requests at a time.
_REQUESTS_MAX: Final = 8
#: A schema that the registry does not have is asked for again after this time: its followers learn of it late.
_MISSING_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """What reads the values of one schema; or why nothing can, and until when that is believed (monotonic, s)."""

    read: Callable[[bytes], Any] | None
    problem: str = ""
    until: float = float("inf")


class Schemas:
    """The schemas of one registry, by id."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry, self._clock = registry, clock
        self._entries: dict[SchemaKey, _Entry] = {}

    def missing(self, records: Iterable[Any]) -> set[SchemaKey]:
        """The keys of the schemas that must be fetched before these records can be read."""
        now = self._clock.monotonic()
        return {key for key in _keys(records) if key not in self._entries or self._entries[key].until <= now}

    async def fetch(self, records: Collection[Any]) -> None:
        """Fetch the schemas that these records lack.

        Raises RegistryError if the registry does not answer. Those that it gave are kept.
        """
        missing, at_once = self.missing(records), asyncio.Semaphore(_REQUESTS_MAX)

        async def one(key: SchemaKey) -> None:
            async with at_once:
                self._entries[key] = await self._fetched(key)

        self._make_room(len(missing), _keys(records))
        ended = await asyncio.gather(*map(one, missing), return_exceptions=True)
        for error in filter(None, ended):
            raise error

    def fetch_now(self, records: Collection[Any]) -> None:
        """Fetch what these records lack, and wait for it. For commands: a worker must not wait so."""
        if self.missing(records):
            asyncio.run(self.fetch(records))

    def _make_room(self, n: int, needed: Collection[SchemaKey]) -> None:
        """Forget the schemas that are here for longest and not needed now, so that ``n`` more are within the bound."""
        others = [key for key in self._entries if key not in needed]
        for key in others[: max(0, len(self._entries) + n - _SCHEMAS_MAX)]:
            del self._entries[key]

    async def _fetched(self, key: SchemaKey) -> _Entry:
        try:
            schema = await self._registry.schema(key)
            # Compiling and parsing can take long enough to hold up the loop.
            return _Entry(await asyncio.to_thread(_reader_of, schema))
        except EventError as error:
            return _Entry(None, str(error), self._clock.monotonic() + _MISSING_S)
        except ValueError as error:
            return _Entry(
                None,
                f"schema {key} of the value cannot be used ({error!s:.300}); expected Avro, Protobuf or JSON Schema;"
                " mend the schema",
            )
        except OSError as error:
            raise RegistryError(f"schema {key} cannot be compiled here ({error})") from error

    def content(self, record: Any) -> Any:
        """What a record holds: a document, or bytes to be read as if no schema were named.

        Its schema must have been fetched. Raises EventError ``schema_id`` if there is no such schema or it cannot be
        used, and ``schema_value`` if the value does not fit it.
        """
        found = framed(record)
        if found is None:
            return record.value
        entry = self._entries.get(found.key)
        if entry is None:
            raise ValuestreamError(f"schema {found.key} was not fetched, expected it to be. This is a bug.")
        if entry.read is None:
            raise EventError("schema_id", entry.problem)
        try:
            return entry.read(found.content)
        except Exception as error:  # The libraries raise errors of many types for a value that does not fit.
            raise EventError(
                "schema_value",
                f"value does not fit its schema {found.key} ({type(error).__name__}: {error!s:.200}); expected a value"
                " that was written by it; check the producer's serializer",
            ) from None


def _keys(records: Iterable[Any]) -> set[SchemaKey]:
    return {found.key for found in map(framed, records) if found is not None}


def _reader_of(schema: Schema) -> Callable[[bytes], Any]:
    """What reads values of this schema. Raises ValueError if it cannot be used."""
    others = dict(schema.others)
    if schema.schemaType == "AVRO":
        return avro_reader(schema.schema, others)
    if schema.schemaType == "PROTOBUF":
        return protobuf_reader(schema.schema, others)
    if schema.schemaType == "JSON":
        # The JSON is not validated: decode is strict about what matters, and about nothing else.
        return bytes
    raise ValueError(f"it is of type {schema.schemaType!r:.40}")
