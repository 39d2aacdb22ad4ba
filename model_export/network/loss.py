"""Loss: weighs the losses of all heads on one batch and adds them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_export.data.examples import Examples, Outcomes
from model_export.network.event_encoder import HASH_BUCKETS
from stream.arrays import Rows

__all__ = ["LossConfig", "Objective", "Targets"]

#: Class of an example without a next category. ``cross_entropy`` of torch ignores this number by default.
_NO_CLASS: Final = -100


class LossConfig(msgspec.Struct, frozen=True):
    """How much the loss of each head weighs, and how much each label."""

    churn_weight: float = 1.0
    purchase_weight: float = 1.0
    #: The value head overfits first, as few users buy and what they spend varies widely.
    value_weight: float = 0.1
    category_weight: float = 0.1
    #: Weigh positives so that together they weigh as much as the negatives. Calibration takes the shift out again.
    class_weights: bool = False
    #: Weight of the teacher's probabilities, which are targets beside the labels (Hinton, Vinyals & Dean 2015).
    distill_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Targets:
    """What the outputs of a batch should be: labels ``(n, heads)`` float32, value ``(n,)``, next class ``(n,)`` int64.

    ``soft`` are the probabilities ``(n, heads)`` of a teacher, or None.
    """

    labels: Tensor
    value: Tensor
    category: Tensor
    soft: Tensor | None


class Objective:
    """The loss on a training set.

    It holds the targets of all examples: labels, next-category classes, and the probabilities of a teacher
    (``soft_targets``).
    """

    def __init__(
        self, config: LossConfig, examples: Examples, categories: Rows, soft_targets: Outcomes | None = None
    ) -> None:
        self._config, self._soft = config, soft_targets
        labels = examples.outcomes
        #: Weights of the probability heads, churn first.
        self.weights = [config.churn_weight] + [config.purchase_weight] * examples.purchase.shape[1]
        self._labels = torch.from_numpy(labels)
        self._value = torch.from_numpy(examples.value.astype(np.float32))
        class_of = np.full(HASH_BUCKETS, _NO_CLASS, np.int64)
        class_of[categories] = np.arange(len(categories))
        self._category = torch.from_numpy(class_of[examples.category])
        rates = np.clip(labels.mean(axis=0), 0.01, 0.99)
        self._positive = torch.from_numpy((1 - rates) / rates) if config.class_weights else None

    def targets(self, rows: Rows) -> Targets:
        """The targets of these rows of the training set."""
        index = torch.from_numpy(rows)
        soft = None if self._soft is None else torch.from_numpy(self._soft[rows])
        return Targets(self._labels[index], self._value[index], self._category[index], soft)

    def __call__(self, outputs: tuple[Tensor, ...], targets: Targets) -> Tensor:
        """Cross-entropies, and the loss of the log-normal on users who bought something of value."""
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
        return loss + self.uncalibrated(outputs, targets)

    def uncalibrated(self, outputs: tuple[Tensor, ...], targets: Targets) -> Tensor:
        """The losses that calibration does not change: those of value and next category."""
        device = outputs[0].device
        loss = self._config.value_weight * _log_normal(outputs[2].float(), targets.value.to(device))
        if len(outputs) > 3 and bool((targets.category >= 0).any()):
            category = functional.cross_entropy(outputs[3].float(), targets.category.to(device))
            loss = loss + self._config.category_weight * category
        return loss


def _log_normal(outputs: Tensor, value: Tensor) -> Tensor:
    """Negative log-likelihood of the values of buyers, as a mean over all examples (Wang, Liu & Miao 2019).

    ``outputs (n, 2)`` are mu and log-sigma.
    """
    bought = value > 0
    mu, log_sigma = outputs[bought, 0], outputs[bought, 1]
    error = (torch.log(value[bought]) - mu) / torch.exp(log_sigma)
    return (0.5 * error**2 + log_sigma).sum() / len(value)
