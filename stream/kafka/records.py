"""Records: makes aiokafka read a fetch faster, and survive a header with a name that is not UTF-8.

Kafka takes any header name, and C clients send any bytes. aiokafka 0.14 raises ``UnicodeDecodeError`` for such a name,
and again at every attempt. One such record would stop its partition, and with it the worker, for ever.

aiokafka also builds a frozen dataclass from every record that its C code has read. That takes longer than the rest of
the reading. Here a record is the object that the C code made. It has ``offset``, ``timestamp`` (milliseconds since
1970), ``key``, ``value`` and ``headers``, but no topic and partition: those are known from the fetch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

__all__ = ["AnyText", "ReadableRecords", "patch_aiokafka"]


class _WholeBatch:
    """A record batch that gives aiokafka a single item: the batch itself, at the offset of its last record."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[_WholeBatch]:
        #: All records of the batch.
        self.records = list(self._batch)
        if self.records:
            self.offset = self.records[-1].offset
            yield self

    def __next__(self) -> Any:
        """Return the first record; aiokafka asks for it only in a control batch."""
        return next(self._batch)


class _RereadableRecords(MemoryRecords):  # type: ignore[misc]
    """The batches of one fetch of a partition, and the bytes that they were read from."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data

    def next_batch(self, *_: Any) -> Any:
        """Return the next batch."""
        batch = super().next_batch()
        return batch if batch is None else _WholeBatch(batch)


class AnyText(bytearray):
    """Bytes that always decode, and so do their slices. A byte that is not UTF-8 becomes ``\\xff`` in the text."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return AnyText(part) if isinstance(at, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """Decode any bytes."""
        return super().decode(encoding, errors)


class _AnyNames(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A record batch with header names of any bytes."""

    def __iter__(self) -> Any:
        super().__iter__()
        self._buffer: bytearray = AnyText(self._buffer)
        return self


class _RemainingBatches(_MemoryRecordsPy):  # type: ignore[misc]
    """The batches of a fetch, beginning with the one that holds ``offset``."""

    def __init__(self, data: bytes, offset: int) -> None:
        super().__init__(data)
        while self.has_next() and _AnyNames(self._next_slice).next_offset <= offset:
            self._cache_next()

    def next_batch(self, *_: Any) -> Any:
        """Return the next batch."""
        batch = _AnyNames(self._next_slice)
        self._cache_next()
        return _WholeBatch(batch)


class ReadableRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one fetch of a partition.

    aiokafka's own loop knows about aborted transactions. Here it goes from batch to batch, and the records of a batch
    are read at once. From a header name that is not UTF-8 onwards, slower code reads the rest of the fetch again.
    """

    next_fetch_offset: int
    _records: Any
    _records_iterator: Iterator[Any]

    def __iter__(self) -> Iterator[Any]:
        """Give the records that are left, each once. A caller that stops may go on later."""
        return self._records_iterator

    def __next__(self) -> Any:
        """Return the next record."""
        return next(self._records_iterator)

    def _unpack_records(self) -> Iterator[Any]:
        batches = super()._unpack_records()
        while True:
            try:
                batch = next(batches, None)
            except UnicodeDecodeError:
                self._records = _RemainingBatches(self._records.data, self.next_fetch_offset)
                batches = super()._unpack_records()
                continue
            if batch is None:
                return
            for record in batch:
                self.next_fetch_offset = record.offset + 1
                yield record

    def _consumer_record(self, _: Any, batch: _WholeBatch) -> list[Any]:
        """Return the records of a batch from the next offset to fetch on."""
        first = self.next_fetch_offset
        if batch.base_offset >= first:
            return batch.records
        return [record for record in batch.records if record.offset >= first]


def patch_aiokafka() -> None:
    """Make every aiokafka consumer of this process read its fetches with the classes above."""
    fetcher.MemoryRecords = _RereadableRecords
    fetcher.PartitionRecords = ReadableRecords
