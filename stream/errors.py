"""Every error that valuestream raises on purpose.

::

    ValuestreamError
    ├── ConfigError      wrong settings, files or topics: say so in one line and exit
    ├── ContractError    two parts disagree (a manifest of another version, an altered file): exit
    ├── EventError       one record cannot be used: it goes to the dead-letter topic, the stream goes on
    ├── ScoringError     the model could not be run now: the users stay queued and are tried again
    ├── LeaseError       our partitions may be another worker's already: nothing is sent until we know
    └── PublishError     the broker did not take what we send: nothing is committed past it, exit

A message says what was found, what was expected, and the next step.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ContractError",
    "EventError",
    "LeaseError",
    "PublishError",
    "ScoringError",
    "ValuestreamError",
]


class ValuestreamError(Exception):
    """Base of all errors that valuestream raises on purpose."""


class ConfigError(ValuestreamError):
    """Settings, files or topics are not as they must be; the process ends with this one line."""


class ContractError(ValuestreamError):
    """Two parts that must agree do not: another version, another hash, another shape."""


class ScoringError(ValuestreamError):
    """The model could not be run; the users stay in the queue and are tried again."""


class LeaseError(ValuestreamError):
    """Nothing may be sent now: the group may have given our partitions to another worker."""


class PublishError(ValuestreamError):
    """The broker did not take records that must be durable; the process ends, and what is not durable is replayed."""


class EventError(ValuestreamError):
    """One record cannot be used. ``reason`` is a word from a small closed set, fit for a metric label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
