"""Scenarios: importing this package registers all of them, in the order of the table."""

from tests.chaos.scenarios import brokers, crash, disk, inputs, load, members, outputs, packed, soak

__all__ = ["brokers", "crash", "disk", "inputs", "load", "members", "outputs", "packed", "soak"]
