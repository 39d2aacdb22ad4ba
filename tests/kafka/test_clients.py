"""Clients: settings become the configuration of each client, and a failed connection is one clear error."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiokafka
import faust
import pytest
from faust.types.auth import AuthProtocol

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.processes import free_port
from stream.errors import ConfigError
from stream.kafka.clients import aiokafka_config, connect, faust_credentials, kafka_python_config, ssl_context
from stream.settings import Settings

SASL: dict[str, Any] = {"sasl_username": "alice", "sasl_password": "right"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real listener that lets in only alice with the password ``right``, by SASL PLAIN."""
    address = f"127.0.0.1:{free_port()}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    properties = {
        "listeners": f"SASL_PLAINTEXT://{address}",
        "advertised.listeners": f"SASL_PLAINTEXT://{address}",
        "listener.security.protocol.map": "SASL_PLAINTEXT:SASL_PLAINTEXT",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} required user_alice="right";',
    }
    with EmbeddedBroker(tmp_path_factory.mktemp("guarded"), properties=properties) as broker:
        broker.start(print)
        yield address


def guarded_settings(address: str, **overrides: Any) -> Settings:
    values: dict[str, Any] = {"bootstrap_servers": address, "security_protocol": "SASL_PLAINTEXT", **SASL, **overrides}
    return Settings(**values)


@pytest.mark.broker
def test_right_password_is_let_in(guarded: str) -> None:
    admin = connect(guarded_settings(guarded))
    assert admin.list_topics() == []
    admin.close()


@pytest.mark.broker
async def test_the_same_settings_let_aiokafka_in_and_connect_works_inside_a_running_loop(guarded: str) -> None:
    settings = guarded_settings(guarded)
    connect(settings).close()
    async with aiokafka.AIOKafkaProducer(**aiokafka_config(settings)) as producer:
        assert await asyncio.wait_for(producer.client.fetch_all_metadata(), 10)


@pytest.mark.broker
def test_wrong_password_names_the_user_and_not_the_password(guarded: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"refused user 'alice' \(PLAIN\).*VALUESTREAM_SASL_PASSWORD") as caught:
        connect(guarded_settings(guarded, sasl_password="hunter2"))
    assert "hunter2" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.broker
def test_mechanism_that_the_broker_does_not_offer_is_named(guarded: str) -> None:
    with pytest.raises(ConfigError, match=r"does not offer SASL mechanism SCRAM-SHA-256.*--sasl-mechanism"):
        connect(guarded_settings(guarded, sasl_mechanism="SCRAM-SHA-256"))


@pytest.mark.broker
def test_sasl_at_a_plaintext_listener_says_that_there_is_no_log_in(broker: EmbeddedBroker) -> None:
    with pytest.raises(ConfigError, match="takes no SASL log-in"):
        connect(guarded_settings(broker.bootstrap_servers))


@pytest.mark.broker
@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_tls_at_a_plaintext_listener_points_to_the_security_protocol(broker: EmbeddedBroker, protocol: str) -> None:
    with pytest.raises(ConfigError, match=rf"{broker.bootstrap_servers}.*--security-protocol"):
        connect(guarded_settings(broker.bootstrap_servers, security_protocol=protocol))


@pytest.mark.broker
def test_one_dead_bootstrap_server_of_two_does_not_matter(broker: EmbeddedBroker) -> None:
    servers = f"127.0.0.1:{free_port()}, {broker.bootstrap_servers}"
    connect(Settings(bootstrap_servers=servers)).close()


def test_a_failed_connection_leaves_no_thread_and_no_changed_logger(caplog: pytest.LogCaptureFixture) -> None:
    threads, handlers = threading.enumerate(), list(logging.getLogger("kafka").handlers)
    with pytest.raises(ConfigError, match="Connection refused"):
        connect(Settings(bootstrap_servers=f"127.0.0.1:{free_port()}"))
    assert threading.enumerate() == threads
    assert logging.getLogger("kafka").handlers == handlers
    assert logging.getLogger("kafka").propagate
    assert caplog.records == []


@pytest.mark.parametrize("servers", ["", "localhost", "localhost:", ":9092", "a:b", "a:0", "a:65536", "a:1,,b:2"])
def test_malformed_bootstrap_servers_are_refused_with_the_expected_form(servers: str) -> None:
    with pytest.raises(ConfigError, match="expected host:port,host:port"):
        kafka_python_config(Settings(bootstrap_servers=servers))


def test_plaintext_carries_no_credentials() -> None:
    settings = Settings(**SASL)
    assert set(kafka_python_config(settings)) == {"bootstrap_servers", "security_protocol"}
    assert ssl_context(settings) is None
    assert faust_credentials(settings) is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_faust_gets_the_same_credentials_as_the_other_clients(protocol: Any, mechanism: Any) -> None:
    settings = Settings(security_protocol=protocol, sasl_mechanism=mechanism, **SASL)
    credentials, config = faust_credentials(settings), aiokafka_config(settings)
    assert isinstance(credentials, faust.SASLCredentials)
    assert credentials.protocol == AuthProtocol(protocol)
    assert credentials.mechanism.value == config["sasl_mechanism"] == mechanism
    assert (credentials.username, credentials.password) == ("alice", "right")
    assert (credentials.ssl_context is not None) == ("ssl_context" in config) == (protocol == "SASL_SSL")


def test_tls_alone_gives_faust_a_context_that_verifies_the_broker() -> None:
    credentials = faust_credentials(Settings(security_protocol="SSL"))
    assert isinstance(credentials, faust.SSLCredentials)
    assert credentials.context.check_hostname


def test_sasl_without_a_user_is_refused() -> None:
    with pytest.raises(ConfigError, match="--sasl-username"):
        kafka_python_config(Settings(security_protocol="SASL_PLAINTEXT"))


def test_missing_certificate_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssl_cafile .*ca\.pem not found.*--ssl-cafile"):
        ssl_context(Settings(security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem"))


def test_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match="TLS files cannot be used"):
        ssl_context(Settings(security_protocol="SSL", ssl_cafile=path))
