"""The names of the Kafka client libraries that code outside ``stream.kafka`` needs.

Only ``stream.kafka`` imports aiokafka and kafka-python. Everyone else imports these names from here, so that a change
of a client library touches one folder. Each library has an error tree of its own: ``KafkaError`` is that of
kafka-python, and ``AioKafkaError`` is that of aiokafka.
"""

from __future__ import annotations

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as AioKafkaError
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

__all__ = [
    "AIOKafkaProducer",
    "AioKafkaError",
    "ConfigResource",
    "ConfigResourceType",
    "KafkaConsumer",
    "KafkaError",
    "KafkaProducer",
    "TopicPartition",
    "murmur2",
]
