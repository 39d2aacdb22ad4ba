"""Tests of logs: their formats and levels, and that no log line shows a payload or a user id."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import faust
import numpy as np
import pytest

from stream.errors import ContractError, EventError
from stream.kafka.fetches import FetchingApp
from stream.service import logs
from stream.settings import Settings

LOG = logging.getLogger("stream.commands.worker")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    level_of_ours = logging.getLogger(logs.OURS).level
    hook = sys.excepthook
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger(logs.OURS).setLevel(level_of_ours)
    sys.excepthook = hook


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def fail() -> None:
    try:
        raise ContractError("no such partition")
    except ContractError:
        LOG.exception("lost it", extra={"partition": 3})


def test_json_line_has_time_level_logger_message_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_format="json"))
    LOG.info("committed %d\nrecords", 7, extra={"partition": 3, "lag": np.int64(5), "dir": Path("state")})
    (line,) = json_lines(capsys)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    assert line == {
        "level": "info",
        "logger": "stream.commands.worker",
        "message": "committed 7\nrecords",
        "partition": 3,
        "lag": 5,
        "dir": "state",
    }


def test_an_exception_is_one_field_of_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_format="json"))
    fail()
    (line,) = json_lines(capsys)
    assert line["exception"].startswith("Traceback (most recent call last)")
    assert line["exception"].endswith("ContractError: no such partition")
    assert line["partition"] == 3


def test_an_extra_field_cannot_overwrite_a_field_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_format="json"))
    LOG.info("true", extra={"level": "forged", "time": 0})
    (line,) = json_lines(capsys)
    assert (line["level"], line["level_"]) == ("info", "forged")
    assert line["time"] != 0


def test_nan_and_infinity_still_make_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_format="json"))
    LOG.info("scored", extra={"loss": float("nan"), "wait": np.float64("inf")})
    (line,) = json_lines(capsys)
    assert (line["loss"], line["wait"]) == ("nan", "inf")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("log_level", ["debug", "info"])
def test_no_extra_field_prints_a_payload_or_a_user_id(
    log_format: str, log_level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup(settings(log_format=log_format, log_level=log_level))
    for name in logs.PRIVATE:
        LOG.info("event refused", extra={name: "secret-4711"})
    for value in (b"secret-4711", {"id": "secret-4711"}, ["secret-4711"], ValueError("secret-4711")):
        LOG.info("event refused", extra={"detail": value})
    written = capsys.readouterr().err
    assert len(written.splitlines()) == len(logs.PRIVATE) + 4
    assert "4711" not in written


def test_text_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings())
    LOG.warning("lag grows", extra={"partition": 3, "records": 1200})
    time, _, rest = capsys.readouterr().err.partition(" ")
    assert datetime.strptime(time, "%H:%M:%S")
    assert rest == "warning worker: lag grows (partition=3, records=1200)\n"


def test_text_shows_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings())
    fail()
    assert capsys.readouterr().err.endswith("ContractError: no such partition\n")


def test_a_long_text_keeps_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_format="json"))
    LOG.info("x" * 100_000 + "the end", extra={"note": "y" * 100_000})
    written = capsys.readouterr().err
    assert len(written) < 10_000
    assert json.loads(written)["message"].endswith("the end")


@pytest.mark.parametrize(
    "name", ["faust.tables.recovery", "mode.services", "aiokafka.consumer", "kafka.conn", "asyncio", "any.other"]
)
def test_log_lines_of_libraries_appear_from_warnings_up(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_level="debug"))
    logging.getLogger(name).info("banner")
    logging.getLogger(name).warning("trouble")
    written = capsys.readouterr().err
    assert "banner" not in written
    assert "trouble" in written


def test_faust_logs_nothing_below_warnings_under_our_logger(capsys: pytest.CaptureFixture[str]) -> None:
    app = FetchingApp("name", store="memory://")
    logs.setup(settings(log_level="debug"))
    assert FetchingApp.logger.name.startswith(logs.OURS)
    for level in ("debug", "info", "warning"):
        code = compile(f"log.{level}('of Faust')", str(Path(faust.__file__).parent / "app" / "base.py"), "exec")
        exec(code, {"log": app.log})
    logging.getLogger("stream.service.worker").debug("ours")
    assert [line.split(": ")[-1] for line in capsys.readouterr().err.splitlines()] == ["of Faust", "ours"]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("error", [KeyError("user-4711"), EventError("value", "amount is 4711"), ValueError(b"4711")])
def test_an_error_that_may_quote_an_event_shows_its_kind_and_place_but_not_its_text(
    log_format: str, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup(settings(log_format=log_format, log_level="debug"))
    try:
        try:
            raise error
        except Exception as first:
            raise ContractError("partition 3 is lost") from first
    except ContractError as second:
        LOG.exception("ended by %r", error, extra={"error": error})
        logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: <Task {error!r}>")
        sys.excepthook(type(second), second, second.__traceback__)
        LOG.error("shown: %s", second)
    written = capsys.readouterr().err
    assert "4711" not in written
    assert written.count(f"{type(error).__name__}: [withheld]") == 2
    assert written.count("ContractError: partition 3 is lost") == 2
    assert "shown: partition 3 is lost" in written
    assert "test_logs.py" in written


def test_the_level_is_the_one_that_was_set(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_level="error"))
    LOG.warning("not now")
    logging.getLogger("faust").warning("nor this")
    LOG.error("this")
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["this"]


def test_setup_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings())
    logs.setup(settings())
    LOG.info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_a_python_warning_is_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(settings(log_format="json"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
    assert json_lines(capsys)[-1]["logger"] == "py.warnings"


def test_repeated_lines_of_a_library_appear_once_in_ten_seconds_and_ours_always(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A Kafka client that has lost its broker logs that a hundred times a second."""
    logs.setup(settings(log_format="json"))
    for node in range(50):
        logging.getLogger("aiokafka.conn").error("no connection to node %d", node)
        LOG.warning("trying again")
    later = logging.makeLogRecord(
        {"name": "aiokafka.conn", "levelno": logging.ERROR, "msg": "no connection to node %d", "args": (7,)}
    )
    later.created += 11
    logging.getLogger("aiokafka.conn").handle(later)
    said = [line["message"] for line in json_lines(capsys)]
    assert said.count("trying again") == 50
    assert [message for message in said if message != "trying again"] == [
        "no connection to node 0",
        "no connection to node 7",
    ]
