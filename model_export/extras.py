"""Extras: turns an import that fails into an error that names the missing extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stream.errors import ConfigError

__all__ = ["needs_training_extra"]


@contextmanager
def needs_training_extra() -> Iterator[None]:
    """Import the packages of training in this block. Raises ConfigError with the next step if one is missing."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"this needs the extra packages of training ({error.name}); pip install 'valuestream[cpu,train]'"
        ) from None
