"""Partitioner: the partition that a record with a key belongs to."""

from __future__ import annotations

from kafka.partitioner.default import murmur2

__all__ = ["partition_of"]


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's default partitioner gives a key: murmur2, as in the Java client.

    A producer with another partitioner may have put the key elsewhere.
    """
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
