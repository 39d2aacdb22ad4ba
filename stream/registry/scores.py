"""Scores in Avro: writes scores and alerts in the Confluent wire format, and reads them in either format.

The schemas are those of :func:`stream.contract.score_avro.avro_schema`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from stream.contract.score import Alert, Score
from stream.contract.score_avro import avro_schema
from stream.errors import ConfigError, EventError
from stream.registry.client import Registry
from stream.registry.schemas import Schemas
from stream.registry.wire_format import frame, framed

__all__ = ["Kind", "avro_encoder", "read_json", "read_record"]

#: A score or an alert.
Kind = TypeVar("Kind", Score, Alert)


async def avro_encoder(registry: Registry, scores_topic: str, alerts_topic: str) -> Callable[[Score | Alert], bytes]:
    """Register the schemas of both topics, and return what makes the value of a score or an alert for Kafka.

    Their subjects are the names of the topics and ``-value``. Raises ConfigError if the registry refuses.
    """
    import fastavro

    writers: dict[type, Callable[[Score | Alert], bytes]] = {}
    for kind, topic in ((Score, scores_topic), (Alert, alerts_topic)):
        schema = avro_schema(kind)
        schema_id = await registry.register(f"{topic}-value", json.dumps(schema))
        writers[kind] = partial(_written, schema_id, fastavro.parse_schema(schema), fastavro.schemaless_writer)
    return lambda record: writers[type(record)](record)


def _written(schema_id: int, schema: Any, write: Any, record: Score | Alert) -> bytes:
    content = io.BytesIO()
    # fastavro would take a pair for the name of a type and a value. Ours are intervals.
    write(content, schema, msgspec.to_builtins(record), disable_tuple_notation=True)
    return frame(schema_id, content.getvalue())


def read_record(record: Any, kind: type[Kind], schemas: Schemas | None) -> Kind:
    """The score or alert of a record, in JSON or in the Confluent wire format.

    Raises MsgspecError if valuestream did not write it, ConfigError if it needs a registry and none is set, and
    RegistryError if that does not answer.
    """
    content = _content(record, schemas)
    if isinstance(content, dict):
        return msgspec.convert(content, kind)
    return msgspec.json.decode(content or b"null", type=kind)


def read_json(record: Any, schemas: Schemas | None) -> bytes:
    """The value of a record as JSON: as it is, or made of what it holds in the Confluent wire format."""
    content = _content(record, schemas)
    return msgspec.json.encode(content) if isinstance(content, dict) else content


def _content(record: Any, schemas: Schemas | None) -> Any:
    if framed(record) is None:
        return record.value
    if schemas is None:
        raise ConfigError(
            "found a record in the Confluent wire format, expected a schema registry to read it by;"
            " set --schema-registry-url"
        )
    schemas.fetch_now([record])
    try:
        return schemas.content(record)
    except EventError as error:
        raise msgspec.ValidationError(str(error)) from None
