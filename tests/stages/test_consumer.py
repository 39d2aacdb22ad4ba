"""Consumer, without a broker: what becomes of the errors of its group coordinator."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError

from stream.consumer import PositionConsumer


class Coordinator:
    """One that waits for somebody to ask for this error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def check_errors(self) -> None:
        raise self._error


def check(coordinator: Coordinator | None) -> None:
    """Look for errors of this coordinator."""
    client = SimpleNamespace(_coordinator=coordinator)
    reader = SimpleNamespace(replaced=False, _ensure_consumer=lambda: client)
    consumer: Any = SimpleNamespace(_thread=reader)
    PositionConsumer.check_errors(consumer)


def test_client_that_still_connects_has_no_errors() -> None:
    check(None)


def test_error_after_which_a_new_attempt_fails_too_is_raised() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        check(Coordinator(GroupAuthorizationFailedError("shop")))


def test_error_after_which_a_new_attempt_may_succeed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check(Coordinator(KafkaConnectionError("gone")))
    assert ["trying again" in record.getMessage() for record in caplog.records] == [True]
