"""Every error that valuestream raises on purpose.

::

    ValuestreamError
    ├── ConfigError      settings, files or topics are wrong: say so in one line and exit
    ├── ContractError    two parts disagree (a manifest of another version, an altered file): exit
    ├── EventError       one record cannot be used: it becomes a dead letter, and the stream goes on
    ├── ScoringError     the model could not be run: its users stay queued and are tried again
    ├── RegistryError    the schema registry does not answer: its events wait, and it is asked again
    ├── LeaseError       another worker may have our partitions already: nothing is sent until we know
    └── PublishError     the broker did not take what we sent: nothing after it is committed; exit

A message says what was found, what was expected, and the next step.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ContractError",
    "EventError",
    "LeaseError",
    "PublishError",
    "RegistryError",
    "ScoringError",
    "ValuestreamError",
]


class ValuestreamError(Exception):
    """Base of all errors that valuestream raises on purpose."""


class ConfigError(ValuestreamError):
    """Settings, files or topics are wrong. The process ends with this one line."""


class ContractError(ValuestreamError):
    """Two parts that must agree do not: they differ in version, hash or shape."""


class ScoringError(ValuestreamError):
    """The model could not be run. The users stay in the queue and are tried again."""


class RegistryError(ValuestreamError):
    """The schema registry does not answer. Events that need a schema of it wait until it does."""


class LeaseError(ValuestreamError):
    """Nothing may be sent now: the group may have given our partitions to another worker."""


class PublishError(ValuestreamError):
    """The broker did not take records that must be durable. The process ends, and what is not durable is replayed."""


class EventError(ValuestreamError):
    """One record cannot be used. ``reason`` is one word of a small closed set, so that it can be a metric label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
