"""The event BERT: one position per event, fused with the numeric features, three heads.

Token channels are embedded and summed, run through Hugging Face's ``BertModel``, averaged over the events that
are there, and mixed with the features by a gate. A linear path from the features to the outputs stands beside,
and training starts it at the logistic regression: the network learns only what that misses. Positions count from
the newest event: what a user did last has the same place however long the history is.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS, FEATURES

__all__ = ["LOG_SIGMA_MAX", "EventBert", "ModelConfig"]

#: The serving side clamps log-sigma here too: exp(mu + sigma²/2) explodes for wide tails.
LOG_SIGMA_MAX: Final = math.log(2.0)
#: Added to the attention logits of padding; exp() of it is 0 in fp32 and in fp16.
MASKED: Final = -10_000
#: onnxruntime multiplies the last rows of a matrix by other kernels, which round otherwise, unless their number
#: is a multiple of four. With four copies of each row a user scores the same to the bit, alone or in any batch.
ROW_COPIES: Final = 4
_TYPE: Final = CHANNELS.index("type")


class ModelConfig(msgspec.Struct, frozen=True):
    """The size of the network. Larger reads more out of long histories and costs throughput in proportion."""

    hidden: int = 32
    layers: int = 2
    heads: int = 4
    intermediate: int = 64
    dropout: float = 0.2
    purchase_heads: int = 2


class EventBert(nn.Module):
    """``tokens (batch, length, channels)`` and ``features (batch, n)`` → logits and the value's mu and log-sigma."""

    low: Tensor
    high: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        hidden, n = config.hidden, len(FEATURES)
        tables = [nn.Embedding(size, hidden, padding_idx=0) for size in CHANNEL_SIZES.values()]
        for table in tables:
            # Small, as BERT's own: at torch's unit variance the tables stay the noise they began as.
            nn.init.normal_(table.weight[1:], std=0.02)
        self.channels = nn.ModuleList(tables)
        self.bert = BertModel(_bert_config(config), add_pooling_layer=False)  # type: ignore[no-untyped-call]
        self.numeric = nn.Sequential(nn.Linear(n, hidden), nn.GELU(), nn.Dropout(config.dropout))
        self.gate = nn.Linear(2 * hidden, hidden)
        self.mix = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(config.dropout))
        outputs = 1 + config.purchase_heads + 2
        self.heads = nn.Linear(hidden, outputs)
        self.linear = nn.Linear(n, outputs, bias=False)
        # Features are cut to the range seen in training: beyond it a line would go on, the truth may not.
        self.register_buffer("low", torch.full((n,), -1e9))
        self.register_buffer("high", torch.full((n,), 1e9))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        # The network starts as the linear model that training sets, and learns what that misses.
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.linear.weight)

    def forward(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``churn (batch,)``, ``purchase (batch, horizons)``, ``value (batch, 2)``."""
        x = (torch.minimum(torch.maximum(features, self.low), self.high) - self.mean) / self.scale
        out = self._fuse(_copied(self._read(tokens)), _copied(x))[:, 0]
        log_sigma = LOG_SIGMA_MAX - _squareplus(out[:, -1:])
        return out[:, 0], out[:, 1:-2], torch.cat((out[:, -2:-1], log_sigma), dim=1)

    def _fuse(self, events: Tensor, x: Tensor) -> Tensor:
        """All raw outputs, ``(batch, copies, outputs)``."""
        numeric = self.numeric(x)
        gate = torch.sigmoid(self.gate(torch.cat((events, numeric), dim=2)))
        out: Tensor = self.heads(self.mix(gate * events + (1 - gate) * numeric)) + self.linear(x)
        return out

    def _read(self, tokens: Tensor) -> Tensor:
        """What the history says, ``(batch, hidden)``: the mean over its events."""
        mask = (tokens[:, :, _TYPE] > 0).to(torch.int64)
        positions = (mask.sum(dim=1, keepdim=True) - mask.cumsum(dim=1)).clamp(min=0, max=HISTORY_LEN - 1)
        embedded = self.channels[0](tokens[:, :, 0])
        for c, table in enumerate(self.channels[1:], start=1):
            embedded = embedded + table(tokens[:, :, c])
        if self.training:
            embedded = embedded * functional.dropout(torch.ones_like(embedded[:, :, :1]), self.config.dropout)
        blocked = ((1 - mask) * MASKED).to(embedded.dtype)[:, None, None, :]
        hidden = self.bert(inputs_embeds=embedded, attention_mask=blocked, position_ids=positions).last_hidden_state
        weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        # A product, not a sum over an axis: onnxruntime sums one row alone in another order than one of many.
        pooled: Tensor = (weights.unsqueeze(1) @ hidden)[:, 0]
        return pooled


def _squareplus(x: Tensor) -> Tensor:
    """A smooth positive part (Barron 2021) of exactly rounded operations, so that it is the same in any batch."""
    return (x + torch.sqrt(x * x + 4.0)) / 2.0


def _copied(rows: Tensor) -> Tensor:
    """``(batch, n)`` as ``(batch, ROW_COPIES, n)``."""
    return rows.unsqueeze(1).expand(-1, ROW_COPIES, -1)


def _bert_config(config: ModelConfig) -> BertConfig:
    return BertConfig(
        vocab_size=1,  # never read: inputs_embeds takes its place
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        # Whole events are dropped instead (see _read): drawing these masks took half of a training step on a CPU.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=HISTORY_LEN,
        type_vocab_size=1,
        attn_implementation="eager",  # type: ignore[call-arg]
    )
