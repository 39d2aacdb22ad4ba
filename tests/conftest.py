"""Fixtures for all tests: a real Kafka broker, settings with topics of their own, and the folder of real data files."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.commands.broker.embedded import EmbeddedBroker
from stream.kafka.topic_admin import ensure_topics
from stream.settings import Settings

DATA_FILES = (
    "uci_online_retail.parquet",
    "tmall2014_t_alibaba_data.csv.gz",
    "cdnow_master.txt.gz",
    "cdnow_sample.txt.gz",
    "airline_tweets_sentiment.csv.gz",
)


@pytest.fixture(autouse=True)
def _settings_of_this_machine_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own VALUESTREAM_ variables and .env file out of the tests."""
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    for name in os.environ:
        if name.startswith("VALUESTREAM_") and name != "VALUESTREAM_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A real broker for the whole session. If it cannot start, the tests that need it fail."""
    # No test kills this broker, so its session may be long. On a machine that stalls for seconds a short session ends,
    # and then the broker refuses to create topics.
    long_session = {"broker.session.timeout.ms": "30000"}
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), properties=long_session) as embedded:
        embedded.start(print)
        yield embedded


@pytest.fixture
def topic_names() -> dict[str, str]:
    """Topic names and an app id that only this test uses."""
    unique = uuid.uuid4().hex[:10]
    return {
        "app_id": f"app-{unique}",
        "events_topic": f"events-{unique}",
        "scores_topic": f"scores-{unique}",
        "alerts_topic": f"alerts-{unique}",
        "dlq_topic": f"events-dlq-{unique}",
    }


@pytest.fixture
def make_settings(broker: EmbeddedBroker, topic_names: dict[str, str], tmp_path: Path) -> Callable[..., Settings]:
    """A function that makes settings for the broker, and creates this test's topics with 4 partitions.

    All settings of a test share its topics and app id, as workers of one service do. Each has a data directory of its
    own.
    """
    workers = itertools.count()

    def make(**overrides: Any) -> Settings:
        values = {
            "bootstrap_servers": broker.bootstrap_servers,
            "data_dir": tmp_path / f"state-{next(workers)}",
            "http_port": 0,
            **topic_names,
            **overrides,
        }
        settings = Settings(**values)
        ensure_topics(settings, partitions=4)
        return settings

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings with this test's own topics and defaults for everything else."""
    return make_settings()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data files. Without VALUESTREAM_DATA a test is skipped; if files are missing, it fails."""
    named = os.environ.get("VALUESTREAM_DATA")
    if not named:
        pytest.skip("VALUESTREAM_DATA is not set: it names the folder of the real data files")
    folder = Path(named)
    missing = [name for name in DATA_FILES if not (folder / name).is_file()]
    if missing:
        pytest.fail(f"VALUESTREAM_DATA is {folder}, which lacks {', '.join(missing)}; set it right or unset it")
    return folder
