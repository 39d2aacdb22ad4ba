"""Event BERT: the fused model. A gate mixes the vector of the event encoder with the numeric features; heads read it.

A linear path leads from the features straight to the outputs. Users who did something just now have a linear path of
their own, because the same numbers mean something else for them than for users who have been silent. Training starts
both paths at a logistic regression, so the network learns only what that regression misses.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.network.event_encoder import EncoderConfig, EventEncoder
from model_export.text.products import ProductTable
from stream.contract.tokens import FEATURES

__all__ = ["LOG_SIGMA_MAX", "ROW_COPIES", "EventBert", "ModelConfig", "Shape", "just_now", "squareplus"]

#: Largest log-sigma; serving clamps it too. Without a bound, exp(mu + sigma²/2) explodes for wide tails.
LOG_SIGMA_MAX: Final = math.log(2.0)
#: onnxruntime multiplies the last rows of a matrix by other kernels, which round differently, unless the number of
#: rows is a multiple of four. With four copies of each row, a user scores the same to the bit alone and in any batch.
ROW_COPIES: Final = 4
_RECENCY: Final = FEATURES.index("recency")


class ModelConfig(EncoderConfig, frozen=True, forbid_unknown_fields=True):
    """The size of the network: its encoder and the parts around it."""

    #: Read the numeric features. Ablations switch this off, so that the event BERT stands alone.
    use_numeric: bool = True
    #: The next-category head chooses among this many most frequent categories; 0: no such head.
    categories: int = 32
    #: Width to which the vectors of product texts are reduced.
    product_width: int = 16


class Shape(msgspec.Struct, frozen=True):
    """The sizes of a network that come from the data: its outputs, and its table of product texts."""

    purchase_heads: int = 2
    categories: int = 0
    product_rows: int = 0


class EventBert(nn.Module):
    """``tokens (batch, length, channels)`` and ``features (batch, n)`` → logits and the value's mu and log-sigma."""

    low: Tensor
    high: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig, shape: Shape, products: ProductTable | None = None) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        hidden, n = config.hidden, len(FEATURES)
        if products is None and shape.product_rows:
            products = ProductTable.empty(shape.product_rows, config.product_width)
        self.encoder = EventEncoder(config, products)
        self.numeric = nn.Sequential(nn.Linear(n, hidden), nn.GELU(), nn.Dropout(config.dropout))
        self.gate = nn.Linear(2 * hidden, hidden)
        self.mix = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(config.dropout))
        outputs = 1 + shape.purchase_heads + 2
        self.heads = nn.Linear(hidden, outputs)
        self.linear = nn.Linear(n, outputs, bias=False)
        #: Slopes and a constant that are added for users who did something just now.
        self.just_now = nn.Parameter(torch.zeros(outputs, n + 1))
        self.category = nn.Linear(hidden, shape.categories) if shape.categories else None
        # Features are cut to the range seen in training: beyond it a line would go on, but reality may not.
        self.register_buffer("low", torch.full((n,), -1e9))
        self.register_buffer("high", torch.full((n,), 1e9))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        # The network starts as the linear models that training sets, and learns what those miss.
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.linear.weight)

    def forward(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """Returns ``churn (batch,)``, ``purchase (batch, horizons)``, ``value (batch, 2)`` and perhaps ``category``.

        ``category (batch, categories)`` are logits of the category of the next event that has one. It is returned only
        if the network has that head.
        """
        x = _copied(self.standardised(features))
        mixed = self._mix(_copied(self.encoder(tokens)), x)
        out = self.heads(mixed)
        if self.config.use_numeric:
            out = out + self.linear(x) + functional.linear(self._just_now(features, x), self.just_now)
        out = out[:, 0]
        log_sigma = LOG_SIGMA_MAX - squareplus(out[:, -1:])
        scores = (out[:, 0], out[:, 1:-2], torch.cat((out[:, -2:-1], log_sigma), dim=1))
        return scores if self.category is None else (*scores, self.category(mixed)[:, 0])

    def standardised(self, features: Tensor) -> Tensor:
        """Features, cut to the range of the training data and standardised by its means and standard deviations."""
        return (torch.minimum(torch.maximum(features, self.low), self.high) - self.mean) / self.scale

    def _just_now(self, features: Tensor, x: Tensor) -> Tensor:
        """The standardised features and a 1 for users who did something just now; zeros for all other users."""
        return torch.cat((x, torch.ones_like(x[:, :, :1])), dim=2) * _copied(just_now(features))

    def _mix(self, events: Tensor, x: Tensor) -> Tensor:
        """Mix the vector of the events with that of the features: ``(batch, copies, hidden)``."""
        mixed = events
        if self.config.use_numeric:
            numeric = self.numeric(x)
            gate = torch.sigmoid(self.gate(torch.cat((events, numeric), dim=2)))
            mixed = gate * events + (1 - gate) * numeric
        out: Tensor = self.mix(mixed)
        return out


def just_now(features: Tensor) -> Tensor:
    """``(batch, 1)``: 1 for users with an event at the scoring instant, else 0."""
    return (features[:, _RECENCY : _RECENCY + 1] <= 0).to(features.dtype)


def squareplus(x: Tensor) -> Tensor:
    """A smooth positive part (Barron 2021). All its operations round exactly, so it is the same in any batch."""
    return (x + torch.sqrt(x * x + 4.0)) / 2.0


def _copied(rows: Tensor) -> Tensor:
    """Copy rows: ``(batch, n)`` → ``(batch, ROW_COPIES, n)``."""
    return rows.unsqueeze(1).expand(-1, ROW_COPIES, -1)
