"""Bench users: the work that is counted is the work that is done."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model_export.bench.bench import BenchResult
from model_export.bench.runners import FULL, PACKED
from model_export.bench.users import flop
from stream.contract.tokens import CHANNELS
from tests.model_export.small_run import CONFIG, network


@pytest.mark.parametrize("length", [8, 64])
def test_flop_is_what_torch_counts(length: int) -> None:
    tokens = torch.ones((3, length, len(CHANNELS)), dtype=torch.int32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network().encoder(tokens)
    pooling = 2 * length * CONFIG.hidden
    assert counter.get_total_flops() == 3 * (flop(CONFIG, length) + pooling)


def test_work_of_packed_users_is_counted_by_their_own_lengths(result: BenchResult) -> None:
    measured = {m.runner: m for m in result.measured if (m.batch, m.threads) == (16, 1)}
    packed, full = (measured[name].gflop_per_second / measured[name].users_per_second for name in (PACKED, FULL))
    # Lengths are uniform, so about half of the positions hold an event.
    assert flop(CONFIG, 1) / 1e9 < packed < 0.8 * full
