"""Serving graph: the trained network, written again in the form that a CPU runs fastest.

It gives the same numbers but for rounding. What is faster was measured on graphs of onnxruntime (docs/inference.md):

- Attention without a mask has a kernel that never writes the whole matrix of attention weights to memory. So the keys
  mask the padding: each head is one column wider. Queries hold 1 there, and the keys of padding a negative number.
- That number is large enough to mask. It is also small enough that its exponential is no denormal float, because CPUs
  compute those in microcode.
- A product can be added to something (``Gemm``): to a residual, or to a bias that differs by row. That needs no node of
  its own. The bias of a product that is added to a residual moves into the layer norm before it. Everything else that
  reads this norm takes that bias out again.
- All channels of all events are looked up in one table. Products of the same rows are one product.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.network.event_bert import LOG_SIGMA_MAX, ROW_COPIES, EventBert, just_now, squareplus
from model_export.network.event_encoder import FOLDED, EventEncoder
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, FEATURES

__all__ = ["ORT_DOMAIN", "Serving"]

#: The domain of onnxruntime's own operators, which are not part of ONNX.
ORT_DOMAIN: Final = "com.microsoft"
#: Added to the attention logits of padding. exp(-60) is 9e-27: nothing compared to 1 in fp32, and far from denormal.
MASKED: Final = -60.0
_TYPE: Final = CHANNELS.index("type")


class Serving(nn.Module):
    """``tokens (batch, length, channels)`` and ``features (batch, n)`` → the outputs of the trained network."""

    @torch.no_grad()
    def __init__(self, network: EventBert) -> None:
        super().__init__()
        self.network = network
        self.history = _History(network.encoder)
        hidden, self.n_outputs = network.config.hidden, network.heads.out_features
        numeric: nn.Linear = network.numeric[0]  # type: ignore[assignment]
        slopes, constant = network.just_now[:, :-1], network.just_now[:, -1]
        # Three products of the standardised features in one: the vector that is mixed with the history, the linear
        # path, and what is added to it for users who did something just now.
        self.features = _Product(
            torch.cat((numeric.weight, network.linear.weight, slopes)),
            torch.cat((numeric.bias, torch.zeros(self.n_outputs), constant)),
        )
        self.widths = [hidden, self.n_outputs, self.n_outputs]
        ends = [network.heads, *([network.category] if network.category is not None else [])]
        self.ends = _Product(torch.cat([end.weight for end in ends]), torch.cat([end.bias for end in ends]))

    def forward(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """The same outputs as those of :meth:`EventBert.forward`."""
        network = self.network
        x = _rows(network.standardised(features).unsqueeze(1).expand(-1, ROW_COPIES, -1), len(FEATURES))
        numeric, linear, change = self.features(x).split(self.widths, dim=1)
        mixed = self.history(tokens)
        if network.config.use_numeric:
            numeric = functional.gelu(numeric)
            gate = torch.sigmoid(network.gate(torch.cat((mixed, numeric), dim=1)))
            mixed = numeric + gate * (mixed - numeric)
        out = _first_copy(self.ends(network.mix(mixed)), self.ends.width)
        scores, category = out[:, : self.n_outputs], out[:, self.n_outputs :]
        if network.config.use_numeric:
            straight, change = (_first_copy(part, self.n_outputs) for part in (linear, change))
            scores = scores + straight + change * just_now(features)
        log_sigma = LOG_SIGMA_MAX - squareplus(scores[:, -1:])
        outputs = (scores[:, 0], scores[:, 1:-2], torch.cat((scores[:, -2:-1], log_sigma), dim=1))
        return outputs if network.category is None else (*outputs, category)


class _History(nn.Module):
    """The event encoder: ``tokens (batch, length, channels)`` → vectors ``(batch × ROW_COPIES, hidden)``."""

    table: Tensor
    offsets: Tensor
    folds: Tensor
    positions: Tensor

    def __init__(self, encoder: EventEncoder) -> None:
        super().__init__()
        bert: Any = encoder.bert
        self.encoder, self.hidden = encoder, encoder.width
        self.channels = [CHANNELS.index(name) for name in encoder.names]
        tables: list[Any] = [table.weight for table in encoder.tables]
        sizes = [len(table) for table in tables]
        self.register_buffer("table", torch.cat(tables))
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0).to(torch.int32))
        self.register_buffer(
            "folds",
            torch.tensor([FOLDED.get(name, 1 + CHANNEL_SIZES[name]) - 1 for name in encoder.names], dtype=torch.int32),
        )
        kinds = bert.embeddings.token_type_embeddings.weight[0]
        self.register_buffer("positions", bert.embeddings.position_embeddings.weight + kinds)
        layers = list(bert.encoder.layer)
        shifts = [layer.attention.output.dense.bias for layer in layers] + [torch.zeros(self.hidden)]
        self.norm = _shifted(bert.embeddings.LayerNorm, shifts[0])
        heads = encoder.config.heads
        self.layers = nn.ModuleList(
            _Layer(layer, heads, *shift) for layer, shift in zip(layers, pairwise(shifts), strict=True)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        n, length = tokens.shape[0], tokens.shape[1]
        mask = (tokens[:, :, _TYPE] > 0).to(torch.int32)
        count = mask.sum(dim=1, keepdim=True)
        positions = (count - mask.cumsum(dim=1)).clamp(min=0)
        x = self._embed(tokens) + functional.embedding(positions, self.positions)
        x = _rows(self.norm(x), self.hidden)
        for layer in self.layers:
            x = layer(x, mask.reshape(-1), (n, length))
        weights = mask / count.clamp(min=1)
        weights = weights.unsqueeze(1).expand(-1, ROW_COPIES, -1)
        return _rows(weights @ x.reshape(n, length, self.hidden), self.hidden)

    def _embed(self, tokens: Tensor) -> Tensor:
        read = tokens if len(self.channels) == len(CHANNELS) else tokens[:, :, self.channels]
        # The encoder folds hash buckets in the same way: 0 stays 0, the others wrap round to 1.
        index = torch.fmod(read - 1, self.folds) + (self.offsets + 1)
        out = functional.embedding(index, self.table).sum(dim=2)
        if self.encoder.products is not None:
            out = out + self.encoder.products(
                tokens[:, :, CHANNELS.index("item")], tokens[:, :, CHANNELS.index("category")]
            )
        return out


class _Layer(nn.Module):
    """One layer of BERT over rows ``(batch × length, hidden)``.

    The rows come in with the bias of this layer's attention output added, and go out with that of the next layer.
    """

    key: Tensor
    key_bias: Tensor
    join: Tensor
    narrow: Tensor

    def __init__(self, layer: Any, heads: int, bias: Tensor, next_bias: Tensor) -> None:
        super().__init__()
        own, inner = layer.attention.self, layer.intermediate.dense
        self.heads, self.scale = heads, 1 / math.sqrt(bias.shape[0] // heads)
        query, key, self.value = (
            _Product(part.weight, part.bias).after(bias) for part in (own.query, own.key, own.value)
        )
        self.query = query.widened(heads, 1.0)
        # Biases of keys: first for padding, then for events.
        self.register_buffer("key_bias", torch.stack([key.widened(heads, x).bias for x in (MASKED / self.scale, 0.0)]))
        self.register_buffer("key", key.widened(heads, 0.0).weight)
        self.register_buffer("join", layer.attention.output.dense.weight.T.contiguous())
        self.norm = _shifted(layer.attention.output.LayerNorm, layer.output.dense.bias)
        self.widen = _Product(inner.weight, inner.bias).after(layer.output.dense.bias)
        self.register_buffer("narrow", layer.output.dense.weight.T.contiguous())
        self.last = _shifted(layer.output.LayerNorm, next_bias)

    def forward(self, x: Tensor, mask: Tensor, rows: tuple[int, int]) -> Tensor:
        keys = torch.addmm(functional.embedding(mask, self.key_bias), x, self.key)
        wide, width = self.query.width, self.value.width
        parts = [part.reshape(*rows, n) for part, n in ((self.query(x), wide), (keys, wide), (self.value(x), width))]
        read: Tensor = _Attention.apply(*parts, self.heads, self.scale)
        x = self.norm(torch.addmm(x, _rows(read, width), self.join))
        out: Tensor = self.last(torch.addmm(x, _Gelu.apply(self.widen(x)), self.narrow))
        return out


class _Product(nn.Module):
    """``x @ weight + bias``; made from a weight ``(out, in)``, as torch keeps it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.width = bias.shape[0]
        self.register_buffer("weight", weight.T.contiguous())
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)

    def after(self, added: Tensor) -> _Product:
        """A product that gives the same for rows to which ``added`` was added before."""
        return _Product(self.weight.T, self.bias - added @ self.weight)

    def widened(self, heads: int, last: float) -> _Product:
        """The product with one more column for each head, which holds ``last`` in every row."""
        weight = functional.pad(self.weight.reshape(-1, heads, self.width // heads), (0, 1)).flatten(1)
        bias = functional.pad(self.bias.reshape(heads, -1), (0, 1), value=last).flatten()
        return _Product(weight.T, bias)


class _Attention(torch.autograd.Function):
    """Softmax attention without a mask; in the graph it is a node of onnxruntime's own."""

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, heads: int, scale: float) -> Any:
        node = g.op(f"{ORT_DOMAIN}::MultiHeadAttention", query, key, value, num_heads_i=heads, scale_f=scale)
        return node.setType(value.type())

    @staticmethod
    def forward(_: Any, query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
        out: Tensor = (torch.softmax(q @ k.transpose(2, 3) * scale, dim=3) @ v).transpose(1, 2).flatten(2)
        return out


class _Gelu(torch.autograd.Function):
    """GELU by erf; in the graph it is one node."""

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op(f"{ORT_DOMAIN}::Gelu", x).setType(x.type())

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return functional.gelu(x)


def _rows(x: Tensor, width: int) -> Tensor:
    """``(a, b, width)`` → ``(a × b, width)``. The width is a constant, so the graph need not compute a shape."""
    return x.reshape(-1, width)


def _first_copy(x: Tensor, width: int) -> Tensor:
    """``(batch × ROW_COPIES, width)`` → ``(batch, width)``."""
    return x.reshape(-1, ROW_COPIES, width)[:, 0]


def _shifted(norm: nn.LayerNorm, by: Tensor) -> nn.LayerNorm:
    """The same layer norm, with ``by`` added to its output."""
    out = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    out.weight.copy_(norm.weight)
    out.bias.copy_(norm.bias + by)
    return out
