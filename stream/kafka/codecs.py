"""Codecs: makes sure that everything Kafka compresses can be read, and names the codec that our producers write with.

gzip is in Python. For snappy, lz4 and zstd each client imports packages of its own, and goes on without those that
are missing. It would fail only when the first record in such a codec is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import aiokafka.codec
import kafka.codec

from stream.errors import ConfigError
from stream.settings import Settings

__all__ = ["compression_type", "require_codecs"]

#: Codec, the package that a client needs for it, and whether that client has found it. aiokafka comes first.
_NEEDS: Final[tuple[tuple[str, str, Callable[[], bool]], ...]] = (
    ("snappy", "cramjam", aiokafka.codec.has_snappy),
    ("lz4", "cramjam", aiokafka.codec.has_lz4),
    ("zstd", "cramjam", aiokafka.codec.has_zstd),
    ("snappy", "python-snappy", kafka.codec.has_snappy),
    ("lz4", "lz4", kafka.codec.has_lz4),
    ("zstd", "zstandard", kafka.codec.has_zstd),
)


def require_codecs() -> None:
    """Raise ConfigError with one line that names what to install, if a client lacks a codec."""
    missing = [(codec, package) for codec, package, found in _NEEDS if not found()]
    if missing:
        codecs, packages = (dict.fromkeys(names) for names in zip(*missing, strict=True))
        raise ConfigError(
            f"records compressed with {', '.join(codecs)} cannot be read, expected to read all of Kafka's codecs;"
            f" install what is missing: pip install {' '.join(packages)}"
        )


def compression_type(settings: Settings) -> str | None:
    """Return the codec of the settings as the producers of both clients take it."""
    return None if settings.compression == "none" else settings.compression
