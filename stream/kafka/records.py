"""Records: aiokafka's reading of a fetch, made fast, and made to survive a header whose name is not UTF-8.

Kafka takes a name as it comes, and C clients send any bytes. aiokafka 0.14 raises ``UnicodeDecodeError`` at it,
again at every attempt, so one such record would stop its partition, and the worker with it, for ever. And it makes a
frozen dataclass of every record that its C code has read, which takes longer than all the rest of reading it: here a
record is what the C code made. It has ``offset``, ``timestamp`` (milliseconds since 1970), ``key``, ``value`` and
``headers``; its topic and partition are those of the fetch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

__all__ = ["ReadableRecords", "read_records"]


class _Whole:
    """A record batch that is one item: itself, at the offset of its last record."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[_Whole]:
        #: All records, each read.
        self.records = list(self._batch)
        if self.records:
            self.offset = self.records[-1].offset
            yield self

    def __next__(self) -> Any:
        """The first record, of a control batch."""
        return next(self._batch)


class _KeptRecords(MemoryRecords):  # type: ignore[misc]
    """The batches of one fetch of a partition, and their bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data

    def next_batch(self, *_: Any) -> Any:
        """The next batch."""
        batch = super().next_batch()
        return batch if batch is None else _Whole(batch)


class AnyText(bytearray):
    """Bytes whose slices decode whatever they hold; what is not UTF-8 is shown as ``\\xff``."""

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        return AnyText(part) if isinstance(at, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _AnyNames(_DefaultRecordBatchPy):  # type: ignore[misc]
    """A record batch whose header names may be any bytes."""

    def __iter__(self) -> Any:
        super().__iter__()
        self._buffer: bytearray = AnyText(self._buffer)
        return self


class _Rest(_MemoryRecordsPy):  # type: ignore[misc]
    """The batches of a fetch from the one that holds ``offset``."""

    def __init__(self, data: bytes, offset: int) -> None:
        super().__init__(data)
        while self.has_next() and _AnyNames(self._next_slice).next_offset <= offset:
            self._cache_next()

    def next_batch(self, *_: Any) -> Any:
        """The next batch."""
        batch = _AnyNames(self._next_slice)
        self._cache_next()
        return _Whole(batch)


class ReadableRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one fetch of a partition; from a name that is not UTF-8 on, read again by slower code.

    aiokafka's own loop, which knows aborted transactions, goes by batches here; the records of each are read at once.
    """

    next_fetch_offset: int
    _records: Any
    _records_iterator: Iterator[Any]

    def __iter__(self) -> Iterator[Any]:
        """The records that are left, each once: who stops in between may begin again."""
        return self._records_iterator

    def __next__(self) -> Any:
        """The next record."""
        return next(self._records_iterator)

    def _unpack_records(self) -> Iterator[Any]:
        batches = super()._unpack_records()
        while True:
            try:
                batch = next(batches, None)
            except UnicodeDecodeError:
                self._records = _Rest(self._records.data, self.next_fetch_offset)
                batches = super()._unpack_records()
                continue
            if batch is None:
                return
            for record in batch:
                self.next_fetch_offset = record.offset + 1
                yield record

    def _consumer_record(self, _: Any, batch: _Whole) -> list[Any]:
        """The records of a batch, without those before the one that was asked for."""
        first = self.next_fetch_offset
        if batch.base_offset >= first:
            return batch.records
        return [record for record in batch.records if record.offset >= first]


def read_records() -> None:
    """Make every aiokafka consumer of this process read so."""
    fetcher.MemoryRecords = _KeptRecords
    fetcher.PartitionRecords = ReadableRecords
