"""The names of the Kafka client libraries that code outside ``stream.kafka`` needs.

Only ``stream.kafka`` imports Faust, aiokafka and kafka-python. Everyone else imports these names from here, so that a
change of a client library touches one folder. Each library has an error tree of its own: ``KafkaError`` is that of
kafka-python, and ``AioKafkaError`` is that of aiokafka.
"""

from __future__ import annotations

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as AioKafkaError
from faust.types import TP
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

__all__ = [
    "TP",
    "AIOKafkaProducer",
    "AioKafkaError",
    "ConfigResource",
    "ConfigResourceType",
    "KafkaConsumer",
    "KafkaError",
    "KafkaProducer",
    "TopicPartition",
]
