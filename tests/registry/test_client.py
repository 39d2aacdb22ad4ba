"""Tests of the registry's client: what counts as an answer, as a refusal, and as a schema that is not there."""

from __future__ import annotations

import json
import socket
import ssl
from typing import Any

import pytest
import trustme

from stream.errors import ConfigError, EventError, RegistryError
from stream.registry import client
from stream.registry.client import Registry
from tests.registry.stub import StubRegistry


def free_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def reference(name: str, subject: str | None = None) -> dict[str, Any]:
    return {"name": name, "subject": subject or name, "version": 1}


async def test_a_schema_comes_with_all_that_it_refers_to_each_after_what_it_needs(stub: StubRegistry) -> None:
    stub.add("a", '"A"')
    stub.add("b/с %", '"B"', references=[reference("a")])
    number = stub.add("c", '"C"', references=[reference("b", "b/с %"), reference("a")])
    schema = await Registry([stub.url]).schema(number)
    assert (schema.schema, schema.schemaType) == ('"C"', "AVRO")
    assert schema.others == (("a", '"A"'), ("b", '"B"'))


async def test_references_that_never_end_are_refused(stub: StubRegistry) -> None:
    for i in range(150):
        number = stub.add(f"s{i}", f'"{i}"', references=[reference(f"s{i - 1}")] if i else [])
    with pytest.raises(EventError, match="refers to more than 100 others"):
        await Registry([stub.url]).schema(number)


@pytest.mark.parametrize("key", [99, "00000000-0000-0000-0000-000000000063"])
async def test_a_schema_that_the_registry_does_not_have_is_an_error_of_the_event(
    stub: StubRegistry, key: int | str
) -> None:
    with pytest.raises(EventError, match=rf"schema {key} .* answers 404 \(Schema .* not found\)") as raised:
        await Registry([stub.url]).schema(key)
    assert raised.value.reason == "schema_id"


async def test_a_schema_whose_reference_is_gone_is_an_error_of_the_event(stub: StubRegistry) -> None:
    number = stub.add("c", '"C"', references=[reference("gone")])
    with pytest.raises(EventError, match="Subject 'gone' not found"):
        await Registry([stub.url]).schema(number)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "<html>no such page</html>"),
        (404, '{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (401, '{"error_code": 401, "message": "Unauthorized"}'),
        (403, "forbidden"),
        (429, ""),
        (500, '{"error_code": 50001, "message": "Error in the backend data store"}'),
        (302, ""),
        (200, "<html>log in</html>"),
        (200, "[" * 5_000),
        (200, '{"schema": 5}'),
    ],
)
async def test_any_other_answer_means_to_wait(stub: StubRegistry, status: int, text: str) -> None:
    number = stub.add("events-value", '"string"')
    stub.fault = (status, text)
    with pytest.raises(RegistryError, match=r"^schema registry: "):
        await Registry([stub.url]).schema(number)
    assert not any("elsewhere" in request for request in stub.requests)


async def test_a_registry_that_is_down_or_silent_means_to_wait(
    stub: StubRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RegistryError, match=r"http://127.0.0.1:\d+ does not answer \(Cannot connect"):
        await Registry([free_address()]).schema(1)
    monkeypatch.setattr(client, "_TIMEOUT_S", 0.2)
    stub.hang = True
    with pytest.raises(RegistryError, match="does not answer"):
        await Registry([stub.url]).schema(1)


async def test_an_endless_answer_is_not_read_to_its_end(stub: StubRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_ANSWER_BYTES_MAX", 1_000)
    number = stub.add("events-value", json.dumps("x" * 1_000))
    with pytest.raises(RegistryError, match="more than 1000 bytes"):
        await Registry([stub.url]).schema(number)


async def test_the_next_registry_answers_for_one_that_is_down(stub: StubRegistry) -> None:
    number = stub.add("events-value", '"string"')
    assert (await Registry([free_address(), stub.url]).schema(number)).schema == '"string"'


async def test_log_in_is_asked_for_and_given() -> None:
    with StubRegistry(user="worker", password="geheim:ä") as stub:
        await Registry([stub.url], user="worker", password="geheim:ä").check()
        for refused in (Registry([stub.url]), Registry([stub.url], user="worker", password="wrong")):
            with pytest.raises(ConfigError, match=r"answers 401 \(Unauthorized\)") as raised:
                await refused.check()
            assert "wrong" not in str(raised.value)


async def test_tls_checks_the_registry_and_shows_our_certificate() -> None:
    ca, other = trustme.CA(), trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(serving)
    ca.issue_cert("127.0.0.1").configure_cert(serving)
    trusting, distrusting, bare = (ssl.create_default_context() for _ in range(3))
    ca.configure_trust(trusting)
    ca.configure_trust(bare)
    other.configure_trust(distrusting)
    for context in (trusting, distrusting):
        ca.issue_cert("worker@example.org").configure_cert(context)
    with StubRegistry(tls=serving) as stub:
        await Registry([stub.url], tls=trusting).check()
        for refused in (distrusting, bare):
            with pytest.raises(ConfigError, match="does not answer"):
                await Registry([stub.url], tls=refused).check()


async def test_registering_gives_the_same_id_again(stub: StubRegistry) -> None:
    registry = Registry([stub.url])
    first = await registry.register("scores-value", '"string"')
    assert await registry.register("scores-value", '"string"') == first
    assert stub.subjects == {"scores-value": [first]}


async def test_a_schema_that_is_refused_is_one_line(stub: StubRegistry) -> None:
    stub.fault = (409, '{"error_code": 409, "message": "Schema being registered is incompatible"}')
    with pytest.raises(ConfigError, match=r"registered as scores-value.*incompatible"):
        await Registry([stub.url]).register("scores-value", '"string"')


async def test_references_in_a_circle_end(stub: StubRegistry) -> None:
    stub.add("a", '"A"', references=[reference("b")])
    stub.add("b", '"B"', references=[reference("a")])
    assert dict((await Registry([stub.url]).schema(1)).others) == {"a": '"A"', "b": '"B"'}
