"""Partitioner: a key has the partition that Kafka's Java client gives it."""

from __future__ import annotations

import pytest

from stream.kafka.partitioner import partition_of

#: Values of Java's murmur2 from Apache Kafka's own UtilsTest.testMurmur2.
JAVA_MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize("partitions", [1, 4, 12])
def test_partition_is_that_of_the_java_clients_default_partitioner(partitions: int) -> None:
    for key, hashed in JAVA_MURMUR2.items():
        assert partition_of(key.encode(), partitions) == (hashed & 0x7FFFFFFF) % partitions
