"""Pretrain: the event encoder learns to tell hidden events from the rest of their history (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from model_export.network.event_encoder import EventEncoder
from stream.contract.tokens import CHANNEL_SIZES, CHANNELS
from stream.score.encode import padded_length

__all__ = ["pretrain"]

Array = npt.NDArray[Any]
#: Share of a history's events that are hidden.
_HIDDEN: Final = 0.15
#: What is to be told of a hidden event. Ages and gaps stay: they say when it was, not what.
_TOLD: Final = ("type", "price")
#: A type that no event has stands for "something happened".
_MASK_TYPE: Final = CHANNEL_SIZES["type"] - 1
_KEPT: Final = [CHANNELS.index(name) for name in ("gap", "hour_of_week", "age")]
_TYPE: Final = CHANNELS.index("type")


def pretrain(encoder: EventEncoder, batches: Iterable[Array], learning_rate: float) -> float:
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
        truth = tokens[hidden]
        loss = torch.zeros(())
        for name, head in zip(_TOLD, heads, strict=True):
            loss = loss + functional.cross_entropy(head(states), truth[:, CHANNELS.index(name)])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    return float(loss.detach())


def _masked(tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(tokens)
    out[:, :, _KEPT] = tokens[:, :, _KEPT]
    out[:, :, _TYPE] = _MASK_TYPE
    return torch.where(hidden[:, :, None], out, tokens)
