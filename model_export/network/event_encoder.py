"""Event encoder: turns the history of a user into one vector, by a BERT with one position per event.

The channels of a token are embedded and summed, run through ``BertModel`` of Hugging Face, and averaged over the
events of the history. Positions count from the newest event: the last event of a user has the same position, however
long the history is.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from model_export.text.products import ProductTable
from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS

__all__ = ["FOLDED", "HASH_BUCKETS", "Encoder", "EncoderConfig", "EventEncoder"]

#: Added to the attention logits of padding. Its exp() is 0 in fp32 and in fp16.
MASKED: Final = -10_000
HASH_BUCKETS: Final = CHANNEL_SIZES["item"]
#: The 65,535 hash buckets of a channel are folded into this many embedding rows: few rows learn from little data.
FOLDED: Final = {"category": 512, "item": 2048}
_TIME_CHANNELS: Final = frozenset({"gap", "hour_of_week", "age"})
_TYPE: Final = CHANNELS.index("type")
_ITEM: Final = CHANNELS.index("item")
_CATEGORY: Final = CHANNELS.index("category")


class Encoder(Protocol):
    """Anything that turns each row of tokens into one vector: the event BERT here, the text BERT in ``text/``."""

    width: int

    def __call__(self, *tokens: Tensor) -> Tensor:
        """Vectors ``(batch, width)``."""


class EncoderConfig(msgspec.Struct, frozen=True):
    """The size of an event encoder. A larger one reads more out of long histories; throughput falls in proportion."""

    hidden: int = 32
    layers: int = 2
    heads: int = 4
    dropout: float = 0.2
    #: Read the channels that tell time (gap, hour of week, age to the scoring instant). Ablations switch this off.
    use_time: bool = True


class EventEncoder(nn.Module):
    """``tokens (batch, length, channels)`` → ``(batch, hidden)``."""

    def __init__(self, config: EncoderConfig, products: ProductTable | None = None) -> None:
        super().__init__()
        self.config, self.width = config, config.hidden
        self.names = [name for name in CHANNELS if config.use_time or name not in _TIME_CHANNELS]
        self.tables = nn.ModuleList(_table(FOLDED.get(n, CHANNEL_SIZES[n]), config.hidden) for n in self.names)
        self.products = _Products(products, config.hidden) if products is not None else None
        self.bert = BertModel(_bert_config(config), add_pooling_layer=False)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean of the vectors of all events of each history."""
        mask = _mask(tokens)
        weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        # A product, not a sum over an axis: onnxruntime sums a row in another order when it is alone in its batch.
        pooled: Tensor = (weights.unsqueeze(1) @ self.states(tokens))[:, 0]
        return pooled

    def states(self, tokens: Tensor) -> Tensor:
        """One vector per event, ``(batch, length, hidden)``; the vectors of padding mean nothing."""
        mask = _mask(tokens)
        positions = (mask.sum(dim=1, keepdim=True) - mask.cumsum(dim=1)).clamp(min=0, max=HISTORY_LEN - 1)
        embedded = self._embed(tokens)
        if self.training:
            embedded = embedded * functional.dropout(torch.ones_like(embedded[:, :, :1]), self.config.dropout)
        # onnxruntime's optimizer recognises a mask that is written this way, and fuses the attention around it.
        blocked = (1.0 - mask[:, None, None, :].to(embedded.dtype)) * MASKED
        out: Tensor = self.bert(
            inputs_embeds=embedded, attention_mask=blocked, position_ids=positions
        ).last_hidden_state
        return out

    def _embed(self, tokens: Tensor) -> Tensor:
        parts = []
        for name, table in zip(self.names, self.tables, strict=True):
            index = tokens[:, :, CHANNELS.index(name)]
            if name in FOLDED:
                index = torch.where(index > 0, 1 + (index - 1) % (FOLDED[name] - 1), index)
            parts.append(table(index))
        if self.products is not None:
            parts.append(self.products(tokens[:, :, _ITEM], tokens[:, :, _CATEGORY]))
        out: Tensor = parts[0]
        for part in parts[1:]:
            out = out + part
        return out


class _Products(nn.Module):
    """Vectors of product texts at item positions. An item that is not in the catalogue is read as its category."""

    item_rows: Tensor
    category_rows: Tensor
    vectors: Tensor

    def __init__(self, table: ProductTable, hidden: int) -> None:
        super().__init__()
        self.register_buffer("item_rows", torch.from_numpy(table.item_rows))
        self.register_buffer("category_rows", torch.from_numpy(table.category_rows))
        self.register_buffer("vectors", torch.from_numpy(table.vectors))
        self.read = nn.Linear(table.vectors.shape[1], hidden, bias=False)
        nn.init.normal_(self.read.weight, std=0.02)

    def forward(self, item: Tensor, category: Tensor) -> Tensor:
        row = functional.embedding(item, self.item_rows[:, None])[:, :, 0]
        instead = functional.embedding(category, self.category_rows[:, None])[:, :, 0]
        out: Tensor = self.read(functional.embedding(torch.where(row > 0, row, instead), self.vectors))
        return out


def _table(size: int, hidden: int) -> nn.Embedding:
    table = nn.Embedding(size, hidden, padding_idx=0)
    # As small as in BERT: with torch's unit variance, training never gets the tables out of their initial noise.
    nn.init.normal_(table.weight[1:], std=0.02)
    return table


def _mask(tokens: Tensor) -> Tensor:
    out: Tensor = (tokens[:, :, _TYPE] > 0).to(torch.int64)
    return out


def _bert_config(config: EncoderConfig) -> BertConfig:
    return BertConfig(
        vocab_size=1,  # never read: inputs_embeds replaces the word embeddings
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=2 * config.hidden,
        # Drawing these masks took half of a training step on a CPU. Whole events are dropped instead, see states().
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=HISTORY_LEN,
        type_vocab_size=1,
        attn_implementation="eager",  # type: ignore[call-arg]
    )
