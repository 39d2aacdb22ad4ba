"""Codecs: a codec that a client cannot read is one line at the start, before anything is connected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiokafka.codec
import kafka.codec
import pytest
from click.testing import CliRunner

from stream.clock import SystemClock
from stream.commands.cli import cli
from stream.commands.worker import run_worker
from stream.errors import ConfigError
from stream.kafka.codecs import compression_type, require_codecs
from stream.kafka.events_topic import read_topic
from stream.settings import Settings

NOWHERE = "127.0.0.1:1"


def test_the_installed_clients_read_every_codec() -> None:
    require_codecs()


@pytest.mark.parametrize(
    ("module", "name", "codecs", "package"),
    [
        (aiokafka.codec, "cramjam", "snappy, lz4, zstd", "cramjam"),
        (kafka.codec, "snappy", "snappy", "python-snappy"),
        (kafka.codec, "lz4", "lz4", "lz4"),
        (kafka.codec, "zstd", "zstd", "zstandard"),
    ],
)
def test_missing_codec_is_one_line_that_names_the_package(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, codecs: str, package: str
) -> None:
    monkeypatch.setattr(module, name, None)
    with pytest.raises(ConfigError) as caught:
        require_codecs()
    assert str(caught.value) == (
        f"records compressed with {codecs} cannot be read, expected to read all of Kafka's codecs; install what is"
        f" missing: pip install {package}"
    )


def test_all_missing_packages_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((aiokafka.codec, "cramjam"), (kafka.codec, "snappy"), (kafka.codec, "zstd")):
        monkeypatch.setattr(module, name, None)
    with pytest.raises(ConfigError, match=r"with snappy, lz4, zstd .*: pip install cramjam python-snappy zstandard$"):
        require_codecs()


def command(*arguments: str) -> Callable[[Path], object]:
    """A function that runs a command against a broker that is not there."""
    env = {"VALUESTREAM_BOOTSTRAP_SERVERS": NOWHERE}
    return lambda _: CliRunner().invoke(cli, arguments, env=env, catch_exceptions=False)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(
            lambda path: run_worker(Settings(bootstrap_servers=NOWHERE, data_dir=path), SystemClock()), id="worker"
        ),
        pytest.param(command("scores", "tail"), id="scores tail"),
        pytest.param(command("alerts", "tail"), id="alerts tail"),
        pytest.param(command("user", "show", "ann"), id="user show"),
        pytest.param(command("user", "export", "ann"), id="user export"),
        pytest.param(command("dlq", "list"), id="dlq list"),
        pytest.param(command("simulate", "--events", "1"), id="simulate"),
        pytest.param(lambda _: list(read_topic(f"kafka://{NOWHERE}/events", records_max=1)), id="training"),
    ],
)
def test_whoever_opens_a_client_says_so_before_it_connects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(kafka.codec, "zstd", None)
    with pytest.raises(ConfigError, match="pip install zstandard"):
        start(tmp_path)


def test_none_is_no_codec_for_the_clients() -> None:
    assert compression_type(Settings(compression="none")) is None
    assert compression_type(Settings(compression="zstd")) == "zstd"
