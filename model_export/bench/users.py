"""Bench users: the users that every runner runs, and how much work it is to run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from model_export.bench.layouts import Layout
from model_export.bench.workload import Workload
from model_export.network.event_bert import ModelConfig
from stream.arrays import Counts, FeatureRows, TokenRows
from stream.contract.tokens import CHANNELS

__all__ = ["BenchUsers", "Work", "flop"]

_TYPE: Final = CHANNELS.index("type")
#: A run covers at most this many batches: when a batch holds one user, more would only take longer.
_BATCHES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Work:
    """How much one run over all users has to do. ``positions`` counts padding too; ``flop`` is of those positions."""

    users: int
    events: int
    positions: int
    flop: int


@dataclass(frozen=True, slots=True)
class BenchUsers:
    """Tokens, features and number of events of each user, and the size of the network that reads them."""

    tokens: TokenRows
    features: FeatureRows
    lengths: Counts
    config: ModelConfig

    @classmethod
    def drawn(cls, workload: Workload, n: int) -> BenchUsers:
        """Draw ``n`` users from the workload, with replacement; always the same ones."""
        rows = np.random.default_rng(0).integers(0, len(workload.sample.tokens), n)
        tokens = workload.sample.tokens[rows].astype(np.int32)
        lengths = np.count_nonzero(tokens[:, :, _TYPE], axis=1)
        return cls(tokens, workload.sample.features[rows], lengths, workload.network.config)

    def laid_out(self, layout: Layout, batch: int) -> list[tuple[TokenRows, FeatureRows]]:
        """Tokens and features of each call to the network, in order."""
        calls = []
        for users in self._batches(batch):
            tokens, features = self.tokens[users], self.features[users]
            for rows, positions in layout(self.lengths[users]):
                calls.append((np.ascontiguousarray(tokens[rows, : positions.max()]), features[rows]))
        return calls

    def work(self, layout: Layout, batch: int) -> Work:
        """Count what :meth:`laid_out` has to compute."""
        batches = self._batches(batch)
        lengths = [n for users in batches for _, positions in layout(self.lengths[users]) for n in positions.tolist()]
        n_users = batch * len(batches)
        flops = sum(flop(self.config, length) for length in lengths)
        return Work(n_users, int(self.lengths[:n_users].sum()), sum(lengths), flops)

    def _batches(self, batch: int) -> list[slice]:
        """Whole batches only."""
        n = min(len(self.lengths), batch * _BATCHES_MAX)
        return [slice(i, i + batch) for i in range(0, n - batch + 1, batch)]


def flop(config: ModelConfig, length: int) -> int:
    """Floating-point operations of the encoder's products for a user padded to ``length``; a multiply-add is two."""
    hidden = config.hidden
    # Query, key, value and output; the two products of the feed-forward net, which is twice as wide; the attention
    # logits and the sum that they weight.
    per_event = 4 * hidden * hidden + 2 * hidden * 2 * hidden + 2 * length * hidden
    return 2 * config.layers * length * per_event
