"""Pretrain: teaches the event encoder to tell hidden events from the rest of their history (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from model_export.data.examples import StoredTokens
from model_export.network.event_encoder import EventEncoder
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS
from stream.score.encode import padded_length

__all__ = ["pretrain"]

#: Share of the events of a history that are hidden.
_HIDDEN: Final = 0.15
#: Channels of a hidden event that the encoder must tell. Ages and gaps stay visible: they say when the event was.
_TOLD: Final = ("type", "price")
#: The type of a hidden event. No real event has it, so it only says that something happened.
_MASK_TYPE: Final = CHANNEL_SIZES["type"] - 1
_KEPT: Final = [CHANNELS.index(name) for name in ("gap", "hour_of_week", "age")]
_TYPE: Final = CHANNELS.index("type")


def pretrain(encoder: EventEncoder, batches: Iterable[StoredTokens], learning_rate: float) -> float:
    """Train ``encoder`` in place on token batches ``(n, length, channels)``; returns the last batch's loss in nats."""
    heads = nn.ModuleList(nn.Linear(encoder.width, CHANNEL_SIZES[name]) for name in _TOLD)
    adam = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], learning_rate, weight_decay=0.01)
    encoder.train()
    loss = torch.zeros(())
    for batch in batches:
        width = padded_length(int((batch[:, :, _TYPE] > 0).sum(axis=1).max()))
        tokens = torch.from_numpy(batch[:, :width].astype(np.int64))
        hidden = (torch.rand(tokens.shape[:2]) < _HIDDEN) & (tokens[:, :, _TYPE] > 0)
        if not bool(hidden.any()):
            continue
        states = encoder.states(_masked(tokens, hidden))[hidden]
        targets = tokens[hidden]
        loss = torch.zeros(())
        for name, head in zip(_TOLD, heads, strict=True):
            loss = loss + functional.cross_entropy(head(states), targets[:, CHANNELS.index(name)])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return float(loss.detach())


def _masked(tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The tokens, with the ``hidden`` events replaced by what stays visible of them."""
    out = torch.zeros_like(tokens)
    out[:, :, _KEPT] = tokens[:, :, _KEPT]
    out[:, :, _TYPE] = _MASK_TYPE
    return torch.where(hidden[:, :, None], out, tokens)
