"""Unpadded: runs the trained network over the events of a whole batch as one long row, without any padding.

Only attention has to know where a user ends. It runs on torch's nested jagged tensors, which hold such a long row and
its cumulative lengths. They use flash attention on CUDA in fp16; on a CPU they take one user after the other.
Everything else treats each event by itself.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.network.event_bert import EventBert
from model_export.network.event_encoder import EventEncoder
from stream.arrays import TokenRows
from stream.contract.tokens import CHANNELS

__all__ = ["PackedEvents", "pack", "packed_network"]

_TYPE: Final = CHANNELS.index("type")


class PackedEvents(NamedTuple):
    """Events of ``n`` users: user i has ``tokens (events, channels)`` from ``offsets[i]`` to ``offsets[i + 1]``.

    ``shortest`` and ``longest`` are the smallest and the largest number of events of a user. They are computed before
    the events go to a GPU, so that nothing has to wait for it.
    """

    tokens: Tensor
    offsets: Tensor
    shortest: int
    longest: int


def pack(tokens: TokenRows, device: str = "cpu") -> PackedEvents:
    """Take the events out of padded histories ``(n, length, channels)``, and put them on ``device``."""
    is_event = tokens[:, :, _TYPE] > 0
    lengths = is_event.sum(axis=1)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    rows, ends = (torch.from_numpy(x).to(device) for x in (tokens[is_event], offsets))
    return PackedEvents(rows, ends, int(lengths.min()), int(lengths.max()))


def packed_network(network: EventBert) -> EventBert:
    """A copy of the network that reads :class:`PackedEvents` instead of padded tokens."""
    out = copy.deepcopy(network)
    out.encoder = _PackedEncoder(out.encoder)  # type: ignore[assignment]
    return out.eval()


class _PackedEncoder(nn.Module):
    """:class:`PackedEvents` → the mean over each user's events ``(n, hidden)``; zeros for a user without events."""

    def __init__(self, encoder: EventEncoder) -> None:
        super().__init__()
        bert: Any = encoder.bert
        self.encoder, self.embeddings = encoder, bert.embeddings
        self.layers = nn.ModuleList(_Layer(layer, encoder.config.heads) for layer in bert.encoder.layer)

    def forward(self, events: PackedEvents) -> Tensor:
        lengths = events.offsets.diff()
        x = self._embed(events, lengths)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors is in prototype stage")
            for layer in self.layers:
                x = layer(x, events)
        sums = torch.segment_reduce(x, "sum", offsets=events.offsets, axis=0)
        return sums / lengths.clamp(min=1)[:, None]

    def _embed(self, events: PackedEvents, lengths: Tensor) -> Tensor:
        n = len(events.tokens)
        # Positions count from the newest event of each user, which is the last one.
        ends = events.offsets[1:].repeat_interleave(lengths, output_size=n)
        positions = self.embeddings.position_embeddings(ends - 1 - torch.arange(n, device=ends.device))
        kind = self.embeddings.token_type_embeddings.weight[0]
        out: Tensor = self.embeddings.LayerNorm(self.encoder._embed(events.tokens[None])[0] + positions + kind)
        return out


class _Layer(nn.Module):
    """One layer of BERT over rows ``(events, hidden)``. Query, key and value are computed by one product."""

    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        own = layer.attention.self
        parts = own.query, own.key, own.value
        self.heads = heads
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.join, self.norm = layer.attention.output.dense, layer.attention.output.LayerNorm
        self.widen, self.narrow, self.last = layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm

    def forward(self, x: Tensor, events: PackedEvents) -> Tensor:
        parts = functional.linear(x, self.weight, self.bias).view(len(x), 3, self.heads, -1)
        x = self.norm(x + self.join(_attention(parts, events).flatten(1)))
        out: Tensor = self.last(x + self.narrow(functional.gelu(self.widen(x))))
        return out


def _attention(parts: Tensor, events: PackedEvents) -> Tensor:
    """Softmax attention among the events of each user: ``(events, 3, heads, width)`` → ``(events, heads, width)``."""
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(
            part.contiguous(), events.offsets, min_seqlen=events.shortest, max_seqlen=events.longest
        ).transpose(1, 2)
        for part in parts.unbind(1)
    )
    out: Tensor = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).values()
    return out
