"""Fit: examples → the network with the least validation loss, the same weights for the same seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor
from torch.nn import functional

from model_export.dataset import Dataset, Examples
from model_export.model import LOG_SIGMA_MAX, EventBert, ModelConfig
from model_export.run import FitConfig
from stream.contract.tokens import CHANNELS
from stream.encode import padded_length

__all__ = ["Fitted", "fit"]

Array = npt.NDArray[Any]
#: Batches of like length are made within this many batches' worth of shuffled examples.
_POOL_BATCHES: Final = 32
_TYPE: Final = CHANNELS.index("type")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A network in evaluation mode, the epochs run, and the one it is of (0: the linear start)."""

    network: EventBert
    epochs: int
    best_epoch: int


def fit(examples: Dataset, model: ModelConfig, config: FitConfig, progress: Progress) -> Fitted:
    """The network of the least validation loss; the same seed and number of threads give the same weights."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    network = _fresh(examples.train, model)
    steps = config.epochs * math.ceil(len(examples.train) / config.batch_size)
    descent = _Descent(network, config, steps)
    task = progress.add_task("training", total=steps)
    losses = [_held_out_loss(network, examples.validation, config.value_weight)]
    best = copy.deepcopy(network.state_dict())
    progress.console.print(f"linear start: validation loss {losses[0]:.4f}")
    while len(losses) <= config.epochs and len(losses) - 1 - losses.index(min(losses)) < config.patience:
        for batch in descent.batches(examples.train):
            descent.step(batch)
            progress.advance(task)
        losses.append(_held_out_loss(network, examples.validation, config.value_weight))
        progress.console.print(f"epoch {len(losses) - 1}: validation loss {losses[-1]:.4f}")
        if losses[-1] < min(losses[:-1]):
            best = copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    return Fitted(network.eval(), len(losses) - 1, losses.index(min(losses)))


class _Descent:
    """AdamW with warm-up, cosine decay and clipped gradients over seeded batches."""

    def __init__(self, network: EventBert, config: FitConfig, steps: int) -> None:
        self._network, self._config = network, config
        self._rng = np.random.default_rng(config.seed)
        self._adam = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adam, lambda n: _rate(n, steps, config.warmup))

    def batches(self, examples: Examples) -> Iterator[Examples]:
        """All examples once, shuffled, in batches of like history length."""
        size = self._config.batch_size
        lengths = (examples.tokens[:, :, _TYPE] > 0).sum(axis=1)
        order = self._rng.permutation(len(examples))
        batches = []
        for begin in range(0, len(order), size * _POOL_BATCHES):
            pool = order[begin : begin + size * _POOL_BATCHES]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        for i in self._rng.permutation(len(batches)).tolist():
            yield examples.take(batches[i])

    def step(self, batch: Examples) -> None:
        """One step down the gradient of this batch's loss."""
        self._network.train()
        self._adam.zero_grad()
        _loss(self._network, batch, self._config.value_weight).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._config.clip_norm)
        self._adam.step()
        self._schedule.step()


def _fresh(examples: Examples, config: ModelConfig) -> EventBert:
    """A new network that gives what linear models of the standardised features give on these examples."""
    network = EventBert(config)
    x = examples.features.astype(np.float64)
    low, high = np.quantile(x, (0.001, 0.999), axis=0)
    x = np.clip(x, low, high)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 0.05)
    for buffer, values in ((network.low, low), (network.high, high), (network.mean, mean), (network.scale, scale)):
        buffer.copy_(torch.from_numpy(values))
    z = (x - mean) / scale
    heads = [_logistic(z, y) for y in (examples.churn, *examples.purchase.T)]
    weights, starts = zip(*heads, *_log_linear(z, examples.value), strict=True)
    with torch.no_grad():
        network.linear.weight.copy_(torch.from_numpy(np.stack(weights)))
        network.heads.bias.copy_(torch.tensor(starts))
    return network


def _logistic(z: Array, y: Array) -> tuple[Array, float]:
    model = LogisticRegression(C=0.1, max_iter=500).fit(z, y)
    return model.coef_[0], float(model.intercept_[0])


def _log_linear(z: Array, value: Array) -> list[tuple[Array, float]]:
    """Ridge regression of the log value of those who bought, and the width of its error for all alike."""
    none = np.zeros(z.shape[1])
    bought = value > 0
    if not bought.any():
        return [(none, 0.0), (none, 0.0)]
    worth = np.log(value[bought])
    model = Ridge(alpha=10.0).fit(z[bought], worth)
    below_max = max(LOG_SIGMA_MAX - math.log(max(np.std(worth - model.predict(z[bought])), 0.01)), 0.1)
    # The inverse of the model's squareplus.
    return [(model.coef_, float(model.intercept_)), (none, below_max - 1 / below_max)]


def _rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then a half cosine down to a twentieth."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _loss(network: EventBert, batch: Examples, value_weight: float) -> Tensor:
    """Sum of the heads' losses: cross-entropies, and the log-normal's on those who bought something of value."""
    width = padded_length(int((batch.tokens[:, :, _TYPE] > 0).sum(axis=1).max()))
    tokens = torch.from_numpy(batch.tokens[:, :width].astype(np.int32))
    churn, purchase, value = network(tokens, torch.from_numpy(batch.features))
    loss = functional.binary_cross_entropy_with_logits(churn, torch.from_numpy(batch.churn))
    loss = loss + functional.binary_cross_entropy_with_logits(purchase, torch.from_numpy(batch.purchase))
    worth = torch.from_numpy(batch.value.astype(np.float32))
    bought = worth > 0
    if bool(bought.any()):
        mu, log_sigma = value[bought, 0], value[bought, 1]
        error = (torch.log(worth[bought]) - mu) / torch.exp(log_sigma)
        loss = loss + value_weight * (0.5 * error**2 + log_sigma).sum() / len(batch)
    return loss


@torch.no_grad()
def _held_out_loss(network: EventBert, examples: Examples, value_weight: float, size: int = 1_024) -> float:
    network.eval()
    total = 0.0
    for begin in range(0, len(examples), size):
        batch = examples.take(np.arange(begin, min(begin + size, len(examples))))
        total += float(_loss(network, batch, value_weight)) * len(batch)
    return total / len(examples)
