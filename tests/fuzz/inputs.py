"""Inputs: turns fuzzed bytes into input from outside, and checks the promises that must hold for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from stream.checkpoint.position import Position
from stream.decode.decoder import DeadLetter
from tests.decode.envelopes.examples import EXAMPLES
from tests.decode.makers import ALL_MAKERS
from tests.fuzz import promises

#: Every preset, and the mapping of the tests.
ENVELOPES: Final = sorted(ALL_MAKERS | EXAMPLES)


def decode(data: bytes) -> None:
    """Check an event between good ones. The first byte chooses the envelope, the rest is the event."""
    if data:
        promises.check_decode(ENVELOPES[data[0] % len(ENVELOPES)], [data[1:]])


def headers(data: bytes) -> None:
    """Check a dead letter with headers of any kind, number and size."""
    from atheris import FuzzedDataProvider  # It is installed on Linux only.

    provider = FuzzedDataProvider(data)
    drawn = [_header(provider) for _ in range(provider.ConsumeIntInRange(0, 40))]
    record = promises.Record(
        provider.ConsumeBytes(provider.ConsumeIntInRange(0, 50)) or None,
        provider.ConsumeInt(8),
        provider.ConsumeBytes(provider.ConsumeIntInRange(0, 50)) or None,
        drawn * provider.ConsumeIntInRange(1, 300),
        timestamp=provider.ConsumeInt(8),
    )
    promises.check_dead_letter(DeadLetter(record, "malformed", provider.ConsumeUnicodeNoSurrogates(600)))


def _header(provider: Any) -> tuple[str, bytes | None]:
    name = provider.PickValueInList(["valuestream.attempt", "valuestream.source.offset", ""])
    content = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 40)) * provider.ConsumeIntInRange(1, 2_000)
    return name or provider.ConsumeUnicodeNoSurrogates(30), content or None


def changelog(data: bytes) -> None:
    """Check the bytes as a packed user, alone and with a second one, and as the metadata of a commit."""
    promises.check_changelog([data])
    promises.check_changelog([data, data])
    assert Position.read(7, data.decode("utf-8", "replace")).offset == 7


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"decode": decode, "headers": headers, "changelog": changelog}
