"""Fit: trains networks on examples. The same seed gives the same weights.

:func:`fit` stops early, by the loss on the validation split. :func:`refit` then trains on newer examples for a known
number of epochs: a model that serves must not miss the newest labels (docs/decisions/0008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from model_export.data.examples import Examples, Outcomes
from model_export.network.event_bert import EventBert
from model_export.network.loss import Objective
from model_export.training.calibration_curves import fit_platt
from model_export.training.descent import Descent, event_counts, outputs_of
from model_export.training.task import FitConfig, Task
from stream.arrays import Numbers
from stream.score.calibration import log_odds

__all__ = ["Fitted", "fit", "refit"]

_EVALUATED_ROWS: Final = 1_024


@dataclass(frozen=True, slots=True)
class Fitted:
    """A network in evaluation mode, how many epochs were run, and which of them gave its weights.

    Epoch 0 is the linear start.
    """

    network: EventBert
    epochs: int
    best_epoch: int


def fit(task: Task, train: Examples, validation: Examples, soft_targets: Outcomes | None = None) -> Fitted:
    """The network of the least validation loss. ``soft_targets`` are the probabilities of a teacher for ``train``."""
    descent = Descent(task, train, soft_targets)
    objective = Objective(task.config, validation, task.categories)
    losses = descent.restore()
    if not losses:
        losses = [_validation_loss(descent.network, objective, validation)]
        task.progress.console.print(f"start: validation loss {losses[0]:.4f}")
    bar = task.progress.add_task("training", total=task.config.epochs, completed=len(losses) - 1)
    while len(losses) <= task.config.epochs and len(losses) - 1 - _best(losses, task.config) < task.config.patience:
        descent.epoch(len(losses))
        losses.append(_validation_loss(descent.network, objective, validation))
        task.progress.console.print(f"epoch {len(losses) - 1}: validation loss {losses[-1]:.4f}")
        if _best(losses, task.config) == len(losses) - 1:
            descent.keep()
        descent.save(losses)
        task.progress.advance(bar)
    task.progress.remove_task(bar)
    return Fitted(descent.best(), len(losses) - 1, _best(losses, task.config))


def refit(task: Task, examples: Examples, epochs: int, soft_targets: Outcomes | None = None) -> EventBert:
    """A network that is trained for a known number of epochs, without a validation split."""
    descent = Descent(task, examples, soft_targets)
    done = max(0, len(descent.restore()) - 1)
    for epoch in range(done + 1, epochs + 1):
        descent.epoch(epoch)
        descent.save([0.0] * (epoch + 1))
    return descent.network.cpu().eval()


def _best(losses: list[float], config: FitConfig) -> int:
    """The epoch with the least validation loss. Private training keeps the last: a choice would tell of the users."""
    return len(losses) - 1 if config.dp_epsilon else losses.index(min(losses))


@torch.no_grad()
def _validation_loss(network: EventBert, objective: Objective, examples: Examples) -> float:
    """The loss that calibration leaves: cross-entropies after Platt scaling, and the other losses as they are."""
    network.eval()
    logits = np.empty((len(examples), len(objective.weights)), np.float32)
    uncalibrated = 0.0
    order = np.argsort(event_counts(examples), kind="stable")
    for begin in range(0, len(order), _EVALUATED_ROWS):
        rows = order[begin : begin + _EVALUATED_ROWS]
        outputs = outputs_of(network, examples, rows)
        logits[rows] = torch.cat((outputs[0][:, None], outputs[1]), dim=1).float().cpu().numpy()
        loss = float(objective.uncalibrated(outputs, objective.targets(rows)))
        uncalibrated += loss * len(rows) / len(examples)
    return uncalibrated + sum(
        weight * _calibrated_loss(logits[:, h], y)
        for h, (weight, y) in enumerate(zip(objective.weights, examples.outcomes.T, strict=True))
    )


def _calibrated_loss(logits: Numbers, y: Outcomes) -> float:
    """The mean log-loss after Platt scaling."""
    odds = log_odds(logits, fit_platt(logits, y))
    return float(np.logaddexp(0, np.where(y > 0, -odds, odds)).mean())
