"""Tests of connections by TLS, mutual TLS and SCRAM to a real broker: who is let in, and how a refusal reads.

test_secrecy.py runs a whole worker over SASL_SSL, test_rights.py over SASL_PLAINTEXT and with a client certificate.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import aiokafka
import pytest

from stream.commands.options import load_settings
from stream.errors import ConfigError
from stream.kafka.clients import aiokafka_config, connect
from tests.broker.command import assert_one_line, valuestream
from tests.security.secured import PASSWORD, Secured

pytestmark = pytest.mark.broker

LISTENERS: list[tuple[str, dict[str, Any]]] = [
    ("SASL_PLAINTEXT", {"sasl_mechanism": "SCRAM-SHA-256"}),
    ("SASL_PLAINTEXT", {"sasl_mechanism": "SCRAM-SHA-512"}),
    ("SASL_SSL", {"sasl_mechanism": "SCRAM-SHA-256"}),
    ("SASL_SSL", {"sasl_mechanism": "SCRAM-SHA-512"}),
    ("SSL", {}),
    ("MTLS", {}),
]


@pytest.mark.parametrize(
    ("protocol", "how"), LISTENERS, ids=[" ".join((name, *how.values())) for name, how in LISTENERS]
)
async def test_both_kafka_clients_are_let_in(secured: Secured, protocol: str, how: dict[str, Any]) -> None:
    settings = secured.as_user("worker", protocol, **how)
    connect(settings).close()
    async with aiokafka.AIOKafkaProducer(**aiokafka_config(settings)) as producer:
        assert await asyncio.wait_for(producer.client.fetch_all_metadata(), 20)


def refusal(settings: Any) -> str:
    """The one line with which the connection is refused."""
    with pytest.raises(ConfigError) as caught:
        connect(settings).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_wrong_password_names_the_user_and_the_mechanism(secured: Secured, protocol: str, mechanism: str) -> None:
    line = refusal(secured.as_user("worker", protocol, sasl_mechanism=mechanism, sasl_password="hunter2"))
    assert f"refused user 'worker' ({mechanism})" in line
    assert "VALUESTREAM_SASL_PASSWORD" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL", "MTLS"])
def test_broker_with_an_untrusted_certificate_is_refused(secured: Secured, protocol: str) -> None:
    line = refusal(secured.as_user("worker", protocol, ssl_cafile=secured.certificates.stranger_ca))
    assert "CERTIFICATE_VERIFY_FAILED" in line
    assert "--ssl-cafile" in line


def test_certificate_of_another_host_is_refused_with_the_expected_name(secured: Secured) -> None:
    other_name = secured.address["SSL"].replace("127.0.0.1", "localhost")
    line = refusal(secured.as_user("worker", "SSL", bootstrap_servers=other_name))
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in line
    assert "--bootstrap-servers" in line


def test_missing_client_certificate_points_to_the_flag(secured: Secured) -> None:
    line = refusal(secured.as_user("worker", "MTLS", ssl_certfile=None, ssl_keyfile=None))
    assert "--ssl-certfile" in line


def test_worker_with_a_wrong_password_ends_in_one_line_that_does_not_show_it(
    secured: Secured, topic_names: dict[str, Any]
) -> None:
    settings = secured.as_user("worker", sasl_password="hunter2", **topic_names)
    flags = ("--log-level", "debug", "--bootstrap-servers", settings.bootstrap_servers)
    ended = valuestream("worker", *flags, **secured.env(settings))
    assert_one_line(ended, f"the broker at {settings.bootstrap_servers} refused user 'worker'")
    assert "hunter2" not in ended.stderr


def test_refusal_of_an_unusable_secret_does_not_show_it() -> None:
    with pytest.raises(ConfigError, match="setting sasl_password: found a secret, input should be") as caught:
        load_settings(sasl_password=["hunter2"])
    assert "hunter2" not in str(caught.value)


def test_password_is_in_no_text_form_of_the_settings(secured: Secured) -> None:
    settings = secured.as_user("worker")
    with closing(connect(settings)):
        assert PASSWORD not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
