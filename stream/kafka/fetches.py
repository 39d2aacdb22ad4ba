"""Fetches: what Faust hands on as one event is all that one fetch brought.

Stock Faust makes an event, and much else, of every record; see ``docs/decisions/0002-faust-in-batches.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import faust
from faust.types import TP
from faust.types.transports import SchedulingStrategyT

from stream.assignment import FetchedRecords

__all__ = ["Fetched", "FetchingApp", "OneEventPerFetch", "Records", "Untouched"]

#: How the names of changelog topics end.
_CHANGELOG: Final = "-changelog"


class Records(FetchedRecords):
    """The records of one partition from one fetch.

    ``follows`` is the last offset of the fetch before, if any; ``seeks`` how often the consumer had sought until then.
    """

    def __init__(self, tp: TP, records: Iterable[Any], follows: int | None, seeks: int) -> None:
        super().__init__(records)
        self.tp, self.follows, self.seeks = tp, follows, seeks


class Fetched:
    """What one fetch brought, in the shape of one consumer record: that of its last record, of this partition."""

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
    """Consumer scheduler that yields all records of the source at once: a list of :class:`Records`.

    Those of a changelog, which recovery reads, are yielded by partition: as one :class:`Records` each.
    """

    def __init__(self) -> None:
        self._last: dict[TP, int] = {}
        self.seeks = 0

    def sought(self) -> None:
        """The consumer was sent elsewhere: fetches from here on follow none of those before."""
        self._last.clear()
        self.seeks += 1

    def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
        """Yield one :class:`Fetched` for the source, and one for each partition of a changelog."""
        source = []
        for tp, fetched in records.items():
            if fetched:
                batch = Records(tp, fetched, self._last.get(tp), self.seeks)
                self._last[tp] = fetched[-1].offset
                if tp.topic.endswith(_CHANGELOG):
                    yield tp, Fetched(batch, tp, batch[-1])
                else:
                    source.append(batch)
        if source:
            yield source[-1].tp, Fetched(source, source[-1].tp, source[-1][-1])


class FetchingApp(faust.App):
    """Faust app whose queues keep what was fetched.

    Faust empties its queues whenever its flow resumes, and it resumes more than once in a rebalance: the first fetch
    after recovery could vanish, and its events with it. What waits from before a rebalance is known by its
    ``seeks``, and dropped where it is read.
    """

    def FlowControlQueue(self, maxsize: int | None = None, **_: Any) -> Any:  # noqa: N802 - Faust's name
        """Return a queue that holds fetches back while the flow is suspended, and never forgets them."""
        return super().FlowControlQueue(maxsize, clear_on_resume=False)


class Untouched(faust.Schema[Any, Any]):
    """Schema that hands the fetched records on as they are."""

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        """Return Faust's decode function: no decoding, so nothing can fail here and stop the stream."""
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001 - Faust's signature
            return create_event(None, message.value, message.headers, message)

        return decode
