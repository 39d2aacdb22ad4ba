"""Loss: the heads' losses of one batch, weighted and added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from model_export.data.examples import Examples
from model_export.network.event_encoder import HASH_BUCKETS

__all__ = ["LossConfig", "Objective", "Targets"]

Array = npt.NDArray[Any]
_NO_CLASS: Final = -100


class LossConfig(msgspec.Struct, frozen=True):
    """Weights of the heads' losses beside one another, and what the labels count."""

    churn_weight: float = 1.0
    purchase_weight: float = 1.0
    #: The value overfits first, as few buy and spend varies widely.
    value_weight: float = 0.1
    category_weight: float = 0.1
    #: Weigh positives up to the negatives' sum; calibration takes the shift out again.
    class_weights: bool = False
    #: Weight of a teacher's probabilities as targets beside the labels (Hinton, Vinyals & Dean 2015).
    distill_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Targets:
    """What a batch is to be told: labels as float32 ``(n, heads)``, value ``(n,)``, next class ``(n,)`` int64.

    ``soft`` are a teacher's probabilities ``(n, heads)``, where there is one.
    """

    labels: Tensor
    value: Tensor
    category: Tensor
    soft: Tensor | None


class Objective:
    """The loss of a training set: knows its classes, the weights of positives, and a teacher's probabilities."""

    def __init__(
        self, config: LossConfig, examples: Examples, categories: Array, soft: npt.NDArray[np.float32] | None = None
    ) -> None:
        self._config, self._soft = config, soft
        labels = examples.outcomes
        #: Of the probability heads, churn first.
        self.weights = [config.churn_weight] + [config.purchase_weight] * examples.purchase.shape[1]
        self._labels = torch.from_numpy(labels)
        self._value = torch.from_numpy(examples.value.astype(np.float32))
        class_of = np.full(HASH_BUCKETS, _NO_CLASS, np.int64)
        class_of[categories] = np.arange(len(categories))
        self._category = torch.from_numpy(class_of[examples.category])
        rates = np.clip(labels.mean(axis=0), 0.01, 0.99)
        self._positive = torch.from_numpy((1 - rates) / rates) if config.class_weights else None

    def targets(self, rows: Array) -> Targets:
        """Those of these rows of the training set."""
        index = torch.from_numpy(rows)
        soft = None if self._soft is None else torch.from_numpy(self._soft[rows])
        return Targets(self._labels[index], self._value[index], self._category[index], soft)

    def __call__(self, outputs: tuple[Tensor, ...], targets: Targets) -> Tensor:
        """Cross-entropies, and the log-normal's loss on those who bought something of value."""
        config, device = self._config, outputs[0].device
        logits = torch.cat((outputs[0][:, None], outputs[1]), dim=1).float()
        weights = torch.tensor(self.weights, device=device)
        positive = None if self._positive is None else self._positive.to(device)
        losses = functional.binary_cross_entropy_with_logits(
            logits, targets.labels.to(device), pos_weight=positive, reduction="none"
        )
        loss = (losses.mean(dim=0) * weights).sum()
        if targets.soft is not None:
            soft = functional.binary_cross_entropy_with_logits(logits, targets.soft.to(device), reduction="none")
            loss = loss + config.distill_weight * (soft.mean(dim=0) * weights).sum()
        return loss + self.rest(outputs, targets)

    def rest(self, outputs: tuple[Tensor, ...], targets: Targets) -> Tensor:
        """The losses that no calibration touches: value and next category."""
        device = outputs[0].device
        loss = self._config.value_weight * _log_normal(outputs[2].float(), targets.value.to(device))
        if len(outputs) > 3 and bool((targets.category >= 0).any()):
            category = functional.cross_entropy(outputs[3].float(), targets.category.to(device))
            loss = loss + self._config.category_weight * category
        return loss


def _log_normal(value: Tensor, worth: Tensor) -> Tensor:
    """Negative log-likelihood of the buyers' values, over all examples (Wang, Liu & Miao 2019)."""
    bought = worth > 0
    mu, log_sigma = value[bought, 0], value[bought, 1]
    error = (torch.log(worth[bought]) - mu) / torch.exp(log_sigma)
    return (0.5 * error**2 + log_sigma).sum() / len(worth)
