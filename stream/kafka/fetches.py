"""Fetches: makes Faust hand on each fetch as one event.

Stock Faust makes an event of every record, and the loop around an event is two thirds of its cost. See
``docs/decisions/0002-faust-in-batches.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import faust
from faust.types import TP
from faust.types.transports import SchedulingStrategyT

from stream.assignment import FetchedRecords

__all__ = ["Fetched", "FetchingApp", "OneEventPerFetch", "Records", "Untouched"]

#: The names of changelog topics end with this.
_CHANGELOG_SUFFIX: Final = "-changelog"


class Records(FetchedRecords):
    """The records of one partition from one fetch.

    ``follows`` is the last offset of the fetch before, or None if there was none since the consumer sought. ``seeks``
    is how often the consumer had sought before this fetch.
    """

    def __init__(self, tp: TP, records: Iterable[Any], follows: int | None, seeks: int) -> None:
        super().__init__(records)
        self.tp, self.follows, self.seeks = tp, follows, seeks


class Fetched:
    """The value of one Faust event, in the shape of one consumer record.

    Partition, offset and timestamp are those of the last record of the fetch.
    """

    checksum = None
    headers = ()
    key = None
    serialized_key_size = 0
    serialized_value_size = 0
    timestamp_type = 0

    def __init__(self, value: Any, tp: TP, last: Any) -> None:
        self.value = value
        self.topic, self.partition = tp
        self.offset = last.offset
        self.timestamp = last.timestamp


class OneEventPerFetch(SchedulingStrategyT):
    """Consumer scheduler that yields all source records of a fetch at once, as a list of :class:`Records`.

    Recovery reads changelogs partition by partition, so each partition of a changelog is yielded by itself, as one
    :class:`Records`.
    """

    def __init__(self) -> None:
        self._last: dict[TP, int] = {}
        self.seeks = 0

    def sought(self) -> None:
        """Note that the consumer has sought: the next fetches do not follow those before."""
        self._last.clear()
        self.seeks += 1

    def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
        """Yield one :class:`Fetched` for the source, and one for each partition of a changelog."""
        source = []
        for tp, fetched in records.items():
            if fetched:
                batch = Records(tp, fetched, self._last.get(tp), self.seeks)
                self._last[tp] = fetched[-1].offset
                if tp.topic.endswith(_CHANGELOG_SUFFIX):
                    yield tp, Fetched(batch, tp, batch[-1])
                else:
                    source.append(batch)
        if source:
            yield source[-1].tp, Fetched(source, source[-1].tp, source[-1][-1])


class FetchingApp(faust.App):
    """Faust app with queues that keep the fetches that wait in them.

    Faust empties its queues whenever its flow resumes, and in a rebalance it resumes more than once. The first fetch
    after recovery could vanish, and its events with it. A fetch from before a rebalance is recognised by its
    ``seeks`` and dropped by the reader.
    """

    def FlowControlQueue(self, maxsize: int | None = None, **_: Any) -> Any:  # noqa: N802 - Faust's name
        """Return a queue that holds fetches back while the flow is suspended, and keeps them."""
        return super().FlowControlQueue(maxsize, clear_on_resume=False)


class Untouched(faust.Schema[Any, Any]):
    """Schema that hands the fetched records on as they are, so that no bad value can stop the stream (fault 10)."""

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        """Return the function that Faust calls to decode a record. It decodes nothing, so it cannot fail."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001 - Faust's signature
            return create_event(None, message.value, message.headers, message)

        return decode
