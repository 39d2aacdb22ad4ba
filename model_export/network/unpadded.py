"""Packed: the trained network over the events of all users of a batch in one row, without any padding.

Attention alone has to know where a user ends. It runs on torch's nested jagged tensors, which are such a row with its
cumulative lengths: flash attention on CUDA in fp16, one user after the other on a CPU. All else is a product, sum or
norm of each event by itself.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.network.event_bert import EventBert
from model_export.network.event_encoder import EventEncoder
from stream.contract.tokens import CHANNELS

__all__ = ["Events", "pack", "packed"]

Array = npt.NDArray[Any]
_TYPE: Final = CHANNELS.index("type")


class Events(NamedTuple):
    """Events of ``n`` users: ``tokens (events, channels)``, of user i those from ``offsets[i]`` to ``offsets[i + 1]``.

    ``shortest`` and ``longest`` number of events of a user are known before anything waits for a GPU.
    """

    tokens: Tensor
    offsets: Tensor
    shortest: int
    longest: int


def pack(tokens: Array, device: str = "cpu") -> Events:
    """The events of padded histories ``(n, length, channels)``, on ``device``."""
    there = tokens[:, :, _TYPE] > 0
    lengths = there.sum(axis=1)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    rows, ends = (torch.from_numpy(x).to(device) for x in (tokens[there], offsets))
    return Events(rows, ends, int(lengths.min()), int(lengths.max()))


def packed(network: EventBert) -> EventBert:
    """A copy of the network that reads :class:`Events` in the place of padded tokens."""
    out = copy.deepcopy(network)
    out.encoder = _PackedEncoder(out.encoder)  # type: ignore[assignment]
    return out.eval()


class _PackedEncoder(nn.Module):
    """:class:`Events` → the mean over the events of each user, ``(n, hidden)``; zeros for one without events."""

    def __init__(self, encoder: EventEncoder) -> None:
        super().__init__()
        bert: Any = encoder.bert
        self.encoder, self.embeddings = encoder, bert.embeddings
        self.layers = nn.ModuleList(_Layer(layer, encoder.config.heads) for layer in bert.encoder.layer)

    def forward(self, events: Events) -> Tensor:
        lengths = events.offsets.diff()
        x = self._embed(events, lengths)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors is in prototype stage")
            for layer in self.layers:
                x = layer(x, events)
        sums = torch.segment_reduce(x, "sum", offsets=events.offsets, axis=0)
        return sums / lengths.clamp(min=1)[:, None]

    def _embed(self, events: Events, lengths: Tensor) -> Tensor:
        n = len(events.tokens)
        # Positions count from the newest event of each user, which is the last.
        ends = events.offsets[1:].repeat_interleave(lengths, output_size=n)
        positions = self.embeddings.position_embeddings(ends - 1 - torch.arange(n, device=ends.device))
        kind = self.embeddings.token_type_embeddings.weight[0]
        out: Tensor = self.embeddings.LayerNorm(self.encoder._embed(events.tokens[None])[0] + positions + kind)
        return out


class _Layer(nn.Module):
    """One layer of BERT over rows ``(events, hidden)``; query, key and value are one product."""

    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        own = layer.attention.self
        parts = own.query, own.key, own.value
        self.heads = heads
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.join, self.norm = layer.attention.output.dense, layer.attention.output.LayerNorm
        self.widen, self.narrow, self.last = layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm

    def forward(self, x: Tensor, events: Events) -> Tensor:
        parts = functional.linear(x, self.weight, self.bias).view(len(x), 3, self.heads, -1)
        x = self.norm(x + self.join(_attention(parts, events).flatten(1)))
        out: Tensor = self.last(x + self.narrow(functional.gelu(self.widen(x))))
        return out


def _attention(parts: Tensor, events: Events) -> Tensor:
    """Softmax attention among each user's own events: ``(events, 3, heads, width)`` → ``(events, heads, width)``."""
    query, key, value = (
        torch.nested.nested_tensor_from_jagged(
            part.contiguous(), events.offsets, min_seqlen=events.shortest, max_seqlen=events.longest
        ).transpose(1, 2)
        for part in parts.unbind(1)
    )
    out: Tensor = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).values()
    return out
