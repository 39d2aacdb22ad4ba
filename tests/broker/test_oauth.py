"""A worker logs in by tokens that live 20 seconds: it outlives several of them, and loses nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.processes import free_port
from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings
from tests.broker.command import assert_one_line, valuestream
from tests.broker.harness import WorkerProcess, produce, wait_for
from tests.broker.undisturbed import assert_as_undisturbed, shoppers
from tests.kafka.issuer import Issuer, issuer

LIFE_S = 20


@pytest.fixture(scope="module")
def ours() -> Iterator[Issuer]:
    with issuer(life_s=LIFE_S) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real listener that takes tokens only, and ends a connection when its token does."""
    address = f"127.0.0.1:{free_port()}"
    listener = "listener.name.sasl_plaintext"
    login = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
    properties = {
        "listeners": f"SASL_PLAINTEXT://{address}",
        "advertised.listeners": f"SASL_PLAINTEXT://{address}",
        "listener.security.protocol.map": "SASL_PLAINTEXT:SASL_PLAINTEXT",
        f"{listener}.sasl.enabled.mechanisms": "OAUTHBEARER",
        f"{listener}.oauthbearer.sasl.jaas.config": f'{login} required unsecuredLoginStringClaim_sub="broker";',
        f"{listener}.oauthbearer.connections.max.reauth.ms": str(LIFE_S * 1_000),
    }
    with EmbeddedBroker(tmp_path_factory.mktemp("guarded"), properties=properties) as broker:
        broker.start(print)
        yield address


def settings_of(guarded: str, ours: Issuer, folder: Path, **others: str) -> Settings:
    unique = uuid.uuid4().hex[:10]
    names = ("app_id", "events_topic", "scores_topic", "alerts_topic", "dlq_topic")
    values = {**{name: f"{name.replace('_', '-')}-{unique}" for name in names}, "data_dir": folder / "state"}
    return Settings(bootstrap_servers=guarded, http_port=0, **ours.settings(**values, **others))


def environment(values: Mapping[str, Any]) -> dict[str, str]:
    """These settings as variables."""
    return {f"VALUESTREAM_{name.upper()}": str(value) for name, value in values.items()}


def test_worker_outlives_its_tokens_and_loses_nothing(guarded: str, ours: Issuer, tmp_path: Path) -> None:
    settings = settings_of(guarded, ours, tmp_path)
    ensure_topics(settings, partitions=4)
    with WorkerProcess(settings, tmp_path / "worker.log", **environment(ours.settings())) as worker:
        worker.wait_ready()
        until, seed = time.monotonic() + 2.2 * LIFE_S, 0
        while time.monotonic() < until:
            seed += 1
            produce(settings, shoppers(300, users=60, seed=seed))
            time.sleep(2)
        renewed = 'valuestream_oauth_tokens_total{outcome="renewed"}'
        wait_for("several tokens", lambda: worker.alive() and worker.metric(renewed) >= 3)
        worker.wait_idle(settings)
        assert worker.terminate() == 0, worker.log()
        assert "eyJ" not in worker.log()
    assert seed > 10
    assert_as_undisturbed(settings)


def test_commands_log_in_by_token_and_a_wrong_secret_is_one_line(guarded: str, ours: Issuer, tmp_path: Path) -> None:
    settings = settings_of(guarded, ours, tmp_path)
    env = environment({**ours.settings(), "bootstrap_servers": guarded})
    made = valuestream("topics", "create", "--partitions", "2", "--events-topic", settings.events_topic, **env)
    assert made.returncode == 0, made.stderr
    refused = valuestream("topics", "check", **{**env, "VALUESTREAM_OAUTH_CLIENT_SECRET": "wrong"})
    assert_one_line(refused, "answered 401 to client 'shop'", "VALUESTREAM_OAUTH_CLIENT_SECRET")
    assert "wrong" not in refused.stderr
