"""Records: batches are read as the broker hands them over, with header names of any bytes."""

from __future__ import annotations

import struct
from typing import Any

import crc32c
import pytest
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from stream.kafka.records import patch_aiokafka

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
ENCODERS = {
    GZIP: codec.gzip_encode,
    SNAPPY: codec.snappy_encode,
    LZ4: codec.lz4_encode,
    ZSTD: codec.zstd_encode,
}


def batch(base_offset: int, names: list[bytes], compression: int = NONE) -> bytes:
    """Build a batch with one record per name. Each has one header with that name, of 4 bytes."""
    builder = DefaultRecordBatchBuilder(2, NONE, 0, -1, -1, 0, 100_000)
    for i, _ in enumerate(names):
        builder.append(i, 0, key=b"k%d" % i, value=b"v%d" % i, headers=[(f"Q{i:03}", b"x")])
    raw = bytearray(builder.build())
    for i, name in enumerate(names):
        raw = raw.replace(b"Q%03d" % i, name)
    if compression != NONE:
        raw = raw[:61] + ENCODERS[compression](bytes(raw[61:]))
        raw[8:12] = struct.pack(">i", len(raw) - 12)
        raw[21:23] = struct.pack(">h", compression)
    raw[0:8] = struct.pack(">q", base_offset)
    raw[17:21] = struct.pack(">I", crc32c.crc32c(bytes(raw[21:])))
    return bytes(raw)


def read(data: bytes, offset: int = 0) -> list[Any]:
    records = fetcher.PartitionRecords(
        TopicPartition("t", 0), fetcher.MemoryRecords(data), [], offset, None, None, True, fetcher.READ_UNCOMMITTED
    )
    return list(records)


@pytest.fixture(autouse=True)
def _patched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MemoryRecords", "PartitionRecords"):
        monkeypatch.setattr(fetcher, name, getattr(fetcher, name))
    patch_aiokafka()


@pytest.mark.parametrize("compression", [NONE, *ENCODERS])
@pytest.mark.parametrize("bad", [b"\xff\xfe\xfd\xfc", b"ab\xc3(", b"\xed\xa0\x80x"])
def test_header_name_that_is_not_utf_8_keeps_no_record_of_its_fetch_from_being_read(
    bad: bytes, compression: int
) -> None:
    first, last = batch(0, [b"good"] * 3), batch(20, [b"good"] * 2)
    middle = batch(10, [b"good", bad, b"good", bad], compression)
    found = read(first + middle + last)
    assert [r.offset for r in found] == [0, 1, 2, 10, 11, 12, 13, 20, 21]
    assert [r.value for r in found] == [b"v0", b"v1", b"v2", b"v0", b"v1", b"v2", b"v3", b"v0", b"v1"]
    assert found[4].headers == [(bad.decode(errors="backslashreplace"), b"x")]
    assert [r.headers for r in found if r.offset not in (11, 13)] == [[("good", b"x")]] * 7
    assert [r.offset for r in read(middle + last, offset=12)] == [12, 13, 20, 21]


def test_records_of_good_names_are_read_as_aiokafka_reads_them() -> None:
    data = batch(0, [b"good"] * 3) + batch(7, ["éé".encode()] * 2)
    found = [(r.offset, r.headers[0][0]) for r in read(data)]
    assert found == [(0, "good"), (1, "good"), (2, "good"), (7, "éé"), (8, "éé")]


def test_reader_that_stops_midway_goes_on_at_the_next_record() -> None:
    data = batch(0, [b"good"] * 5) + batch(9, [b"good"] * 2)
    records = fetcher.PartitionRecords(
        TopicPartition("t", 0), fetcher.MemoryRecords(data), [], 1, None, None, True, fetcher.READ_UNCOMMITTED
    )
    offsets = []
    for record in records:
        offsets.append((record.offset, records.next_fetch_offset))
        if len(offsets) == 2:
            break
    assert offsets == [(1, 2), (2, 3)]
    assert records.next_fetch_offset == 3
    assert next(records).offset == 3
    assert [record.offset for record in records] == [4, 9, 10]
    assert records.next_fetch_offset == 11
    assert list(records) == []


def test_batch_that_compaction_has_emptied_is_passed_over() -> None:
    empty = bytearray(batch(5, [b"good"]))
    empty = empty[:57] + struct.pack(">i", 0)
    empty[8:12] = struct.pack(">i", len(empty) - 12)
    empty[17:21] = struct.pack(">I", crc32c.crc32c(bytes(empty[21:])))
    assert [r.offset for r in read(batch(0, [b"good"]) + bytes(empty) + batch(9, [b"good"]))] == [0, 9]
    records = fetcher.PartitionRecords(
        TopicPartition("t", 0), fetcher.MemoryRecords(bytes(empty)), [], 5, None, None, True, fetcher.READ_UNCOMMITTED
    )
    assert list(records) == []
    assert records.next_fetch_offset == 6
