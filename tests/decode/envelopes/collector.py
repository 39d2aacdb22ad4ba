"""Collector: a local HTTP server that keeps what an SDK posts, as a shop's collector forwards it to Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.loopback import answering

__all__ = ["Collector", "collector"]


@dataclass(frozen=True)
class Collector:
    """The bodies that were posted to ``url``, in order."""

    host: str
    bodies: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port of loopback, for as long as the block runs."""
    bodies: list[bytes] = []

    def keep(_authorization: str, body: bytes) -> tuple[int, bytes]:
        bodies.append(body)
        return 200, b'{"status": 1}'

    with answering(keep) as port:
        yield Collector(f"127.0.0.1:{port}", bodies)
