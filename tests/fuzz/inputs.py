"""From bytes to something that comes in from outside, and the promises that must hold for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stream.checkpoint.position import Position
from stream.decode.decoder import DeadLetter
from tests.decode.makers import MAKERS
from tests.fuzz import promises


def decode(data: bytes) -> None:
    """The first byte chooses the envelope, the rest is an event beside good ones."""
    if data:
        promises.check_decode(sorted(MAKERS)[data[0] % len(MAKERS)], [data[1:]])


def headers(data: bytes) -> None:
    """A dead letter with headers of any kind, number and size."""
    from atheris import FuzzedDataProvider  # It is there on Linux only.

    given = FuzzedDataProvider(data)
    found = [_header(given) for _ in range(given.ConsumeIntInRange(0, 40))]
    record = promises.Record(
        given.ConsumeBytes(given.ConsumeIntInRange(0, 50)) or None,
        given.ConsumeInt(8),
        given.ConsumeBytes(given.ConsumeIntInRange(0, 50)) or None,
        found * given.ConsumeIntInRange(1, 300),
        timestamp=given.ConsumeInt(8),
    )
    promises.check_dead_letter(DeadLetter(record, "malformed", given.ConsumeUnicodeNoSurrogates(600)))


def _header(given: Any) -> tuple[str, bytes | None]:
    name = given.PickValueInList(["valuestream.attempt", "valuestream.source.offset", ""])
    content = given.ConsumeBytes(given.ConsumeIntInRange(0, 40)) * given.ConsumeIntInRange(1, 2_000)
    return name or given.ConsumeUnicodeNoSurrogates(30), content or None


def changelog(data: bytes) -> None:
    """A packed user, alone and beside another; and commit metadata of the same bytes."""
    promises.check_changelog([data])
    promises.check_changelog([data, data])
    assert Position.read(7, data.decode("utf-8", "replace")).offset == 7


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"decode": decode, "headers": headers, "changelog": changelog}
