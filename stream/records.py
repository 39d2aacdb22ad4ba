"""Records: aiokafka's reading of a fetch, made fast, and made to survive a header whose name is not UTF-8.

Kafka takes a name as it comes, and C clients send any bytes. aiokafka 0.14 raises ``UnicodeDecodeError`` at it,
again at every attempt, so one such record would stop its partition, and the worker with it, for ever. And it makes a
frozen dataclass of every record, which takes longer than all the rest of reading it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

__all__ = ["ReadableRecords", "Record", "read_records"]

_tuple = tuple.__new__


class Record(NamedTuple):
    """A record as it was read, without what nobody here asks for; ``timestamp`` is in milliseconds since 1970."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    topic: str
    partition: int


class _KeptRecords(MemoryRecords):  # type: ignore[misc]
    """The batches of one fetch of a partition, and their bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


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
        return batch


class ReadableRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one fetch of a partition; from a name that is not UTF-8 on, read again by slower code."""

    _records: Any
    _records_iterator: Any

    def __next__(self) -> Any:
        """The next record."""
        try:
            return next(self._records_iterator)
        except StopIteration:
            self._records_iterator = None
            raise
        except UnicodeDecodeError:
            self._records = _Rest(self._records.data, self.next_fetch_offset)
            self._records_iterator = self._unpack_records()
            return next(self)

    def _consumer_record(self, tp: Any, record: Any) -> Record:
        headers = record.headers
        fields = (
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(headers) if headers else (),
            tp.topic,
            tp.partition,
        )
        return _tuple(Record, fields)


def read_records() -> None:
    """Make every aiokafka consumer of this process read so."""
    fetcher.MemoryRecords = _KeptRecords
    fetcher.PartitionRecords = ReadableRecords
