"""Tests of the wait for the schema registry: it ends when the registry is back, or when nobody wants the fetch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from stream.clock import ManualClock
from stream.metrics import Metrics
from stream.registry.client import Registry
from stream.registry.schemas import Schemas
from stream.registry.wire_format import frame
from stream.service import schema_wait
from stream.service.health import Health
from stream.service.schema_wait import SchemaWait
from tests.registry.makers import Record
from tests.registry.stub import StubRegistry

RECORD = Record(0, frame(1, b"\x04hi"))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubRegistry]:
    monkeypatch.setattr(schema_wait, "_BACKOFF_S", 0.01)
    monkeypatch.setattr(schema_wait, "_NAP_S", 0.01)
    with StubRegistry() as registry:
        registry.add("events-value", '"string"')
        yield registry


class Bench:
    """A wait with all that it reports to."""

    def __init__(self, stub: StubRegistry) -> None:
        self.clock, self.metrics = ManualClock(), Metrics()
        self.health = Health(self.clock)
        self.schemas = Schemas(Registry([stub.url]), self.clock)
        self.wait = SchemaWait(self.schemas, self.metrics, self.health, self.clock)
        self.wanted = True
        self.health.started()
        self.health.assigned(1)
        self.health.recovered(True)
        self.health.lag(10)

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.wait.until_known([[RECORD]], lambda: self.wanted))

    async def until_it_waits(self) -> None:
        while not self.metric("schema_registry_errors_total"):
            await asyncio.sleep(0.01)

    def metric(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"valuestream_{name}") or 0.0


async def test_a_fetch_waits_until_the_registry_is_back(stub: StubRegistry, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(stub)
    stub.down()
    with caplog.at_level(logging.INFO):
        waiting = bench.start()
        await bench.until_it_waits()
        bench.clock.advance(seconds=300)
        bench.health.beat()
        assert not waiting.done()
        assert bench.health.live().ok
        ready = bench.health.ready()
        assert not ready.ok
        assert "does not answer" in ready.detail
        assert bench.metric("schema_registry_wait_seconds") >= 300
        stub.up()
        await waiting
    assert bench.schemas.content(RECORD) == "hi"
    assert bench.metric("schema_registry_wait_seconds") == 0
    assert bench.health.ready().ok
    assert any("ingestion waits, asking again in" in line for line in caplog.messages)
    assert any("ingestion goes on" in line for line in caplog.messages)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_fetch_that_nobody_wants_any_more_is_not_waited_for(stub: StubRegistry, silent: bool) -> None:
    bench = Bench(stub)
    if silent:
        stub.hang = True
    else:
        stub.down()
    waiting = bench.start()
    await asyncio.sleep(0.05)
    bench.wanted = False
    await asyncio.wait_for(waiting, 3)
    assert bench.health.ready().ok


async def test_a_wait_can_be_cancelled(stub: StubRegistry) -> None:
    bench = Bench(stub)
    stub.down()
    waiting = bench.start()
    await bench.until_it_waits()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    n_asked = bench.metric("schema_registry_errors_total")
    await asyncio.sleep(0.1)
    assert bench.metric("schema_registry_errors_total") == n_asked


async def test_without_a_registry_and_with_known_schemas_nothing_is_awaited(stub: StubRegistry) -> None:
    bench = Bench(stub)
    await bench.start()
    stub.down()
    await bench.start()
    nobody = SchemaWait(None, bench.metrics, bench.health, bench.clock)
    await nobody.until_known([[RECORD]], lambda: True)
