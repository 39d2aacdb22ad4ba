"""Fixtures of the tests of the schema registry: a stub of it, and what reads its schemas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from stream.clock import ManualClock
from stream.registry.client import Registry
from stream.registry.schemas import Schemas
from tests.registry.stub import StubRegistry


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    with StubRegistry() as registry:
        yield registry


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_735_689_600.0)


@pytest.fixture
def schemas(stub: StubRegistry, clock: ManualClock) -> Schemas:
    return Schemas(Registry([stub.url]), clock)


@pytest.fixture
def producer(stub: StubRegistry) -> SchemaRegistryClient:
    """The client that confluent-kafka's serializers register schemas with."""
    return SchemaRegistryClient({"url": stub.url})
