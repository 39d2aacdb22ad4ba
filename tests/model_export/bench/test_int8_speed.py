"""Int8 speed: int8 is compared with fp32 at any width."""

from __future__ import annotations

from model_export.bench.int8_speed import int8_speedups


def test_int8_speedup_is_measured_for_a_network_of_any_width() -> None:
    result = int8_speedups(16, 1)
    assert [(x.hidden, x.batch) for x in result] == [(16, 8), (16, 64)]
    assert all(x.gain > 0 and x.fp32_users_per_second > 0 for x in result)
