"""Fit: examples → the network with the least validation loss, the same weights for the same seed.

After early stopping on the validation window a network may be *refitted* on both windows, for as many epochs: the
newest labels are the ones that a live model must not miss (docs/decisions/0008).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from model_export.data.examples import Examples
from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.network.initial_weights import new_network
from model_export.network.loss import Objective
from model_export.text.products import ProductTable
from model_export.training.calibration_curves import fit_platt
from model_export.training.dp_sgd import PrivateConfig, PrivateGradients, scaled_like
from model_export.training.pretrain import pretrain
from stream.contract.tokens import CHANNELS
from stream.errors import ConfigError
from stream.score.calibration import log_odds
from stream.score.encode import padded_length

__all__ = ["FitConfig", "Fitted", "fit", "frequent_categories", "reproducible"]

Array = npt.NDArray[Any]
#: Batches of like length are made within this many batches' worth of shuffled examples.
_POOL_BATCHES: Final = 32
_EVALUATED_ROWS: Final = 1_024
_TYPE: Final = CHANNELS.index("type")


class FitConfig(PrivateConfig, frozen=True, forbid_unknown_fields=True):
    """How a network is trained."""

    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    #: Share of all steps in which the learning rate rises to its full size.
    warmup: float = 0.1
    clip_norm: float = 1.0
    #: Epochs without a better validation loss after which training stops.
    patience: int = 2
    #: Epochs in which the encoder first learns to tell hidden events from the others of their history.
    pretrain_epochs: int = 0
    #: How much of the drift found over the last horizon is taken to happen again (docs/decisions/0008).
    drift: float = 0.5
    #: Fixed, as sums depend on how they are divided: the same number gives the same weights.
    threads: int = 1
    #: Fewest examples of each class that a head may be trained, calibrated or measured on.
    class_min: int = 50


@dataclass(frozen=True, slots=True)
class Fitted:
    """A network in evaluation mode, the epochs run, and the one it is of (0: the linear start)."""

    network: EventBert
    epochs: int
    best_epoch: int


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learned: the network's shape, what may already be known, and where to show and keep progress."""

    model: ModelConfig
    config: FitConfig
    seed: int
    #: Buckets of the next-category classes.
    categories: Array
    progress: Progress
    products: ProductTable | None = None
    #: A network to go on from, instead of a fresh one.
    warm: EventBert | None = None
    #: Epochs are kept here, so that an interrupted training goes on; none: they are not.
    checkpoint: Path | None = None

    def shape(self, horizons: int) -> Shape:
        """The shape of its network."""
        rows = 0 if self.products is None else len(self.products.vectors)
        return Shape(horizons, len(self.categories), rows)


def frequent_categories(examples: Examples, most: int) -> Array:
    """Hash buckets of the categories that come next most often, ``(k,)``, most frequent first."""
    buckets, counts = np.unique(examples.category[examples.category > 0], return_counts=True)
    return buckets[np.lexsort((buckets, -counts))][:most].astype(np.int64)


def fit(task: Task, train: Examples, validation: Examples, soft: npt.NDArray[np.float32] | None = None) -> Fitted:
    """The network of the least validation loss; ``soft`` are a teacher's probabilities for ``train``."""
    descent = _Descent(task, train, soft)
    held_out = Objective(task.config, validation, task.categories)
    losses = descent.restore()
    if not losses:
        losses = [_held_out_loss(descent.network, held_out, validation)]
        task.progress.console.print(f"start: validation loss {losses[0]:.4f}")
    bar = task.progress.add_task("training", total=task.config.epochs, completed=len(losses) - 1)
    while len(losses) <= task.config.epochs and len(losses) - 1 - _best(losses, task.config) < task.config.patience:
        descent.epoch(len(losses))
        losses.append(_held_out_loss(descent.network, held_out, validation))
        task.progress.console.print(f"epoch {len(losses) - 1}: validation loss {losses[-1]:.4f}")
        if _best(losses, task.config) == len(losses) - 1:
            descent.keep()
        descent.save(losses)
        task.progress.advance(bar)
    task.progress.remove_task(bar)
    return Fitted(descent.best(), len(losses) - 1, _best(losses, task.config))


def _best(losses: list[float], config: FitConfig) -> int:
    """The epoch to keep: that of the least validation loss; if private the last, as choosing would tell of users."""
    return len(losses) - 1 if config.dp_epsilon else losses.index(min(losses))


def refit(task: Task, examples: Examples, epochs: int, soft: npt.NDArray[np.float32] | None = None) -> EventBert:
    """A network trained for a known number of epochs, without a held-out window."""
    descent = _Descent(task, examples, soft)
    done = max(0, len(descent.restore()) - 1)
    for epoch in range(done + 1, epochs + 1):
        descent.epoch(epoch)
        descent.save([0.0] * (epoch + 1))
    return descent.network.cpu().eval()


class _Descent:
    """AdamW with warm-up, cosine decay and clipped gradients over seeded batches."""

    def __init__(self, task: Task, examples: Examples, soft: npt.NDArray[np.float32] | None) -> None:
        config = task.config
        reproducible(task.seed, config.threads)
        self._task, self._config, self._examples = task, config, examples
        self._objective = Objective(config, examples, task.categories, soft)
        self._private = self._privately()
        self._lengths = (examples.tokens[:, :, _TYPE] > 0).sum(axis=1)
        self.network = self._start().to(_device())
        self._best = copy.deepcopy(self.network.state_dict())
        self._adam = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        passes = self._private.steps if self._private else math.ceil(len(examples) / config.batch_size)
        steps = config.epochs * passes
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adam, lambda n: _rate(n, steps, config.warmup))

    def _privately(self) -> PrivateGradients | None:
        config = self._config
        if not config.dp_epsilon:
            return None
        if self._task.warm is not None:
            raise ConfigError(
                "fit.dp_epsilon is set and a network to go on from was given, expected a fresh one: what that has seen"
                " would not be in the budget; train a new model"
            )
        private = PrivateGradients(
            config, self._examples, self._objective, epochs=config.epochs, batch_size=config.batch_size
        )
        self._task.progress.console.print(f"private training: ε {config.dp_epsilon:g}, noise {private.noise:.2f}")
        return private

    def _start(self) -> EventBert:
        task = self._task
        if task.warm is not None:
            return copy.deepcopy(task.warm)
        shape = task.shape(self._examples.purchase.shape[1])
        network = new_network(self._examples, task.model, shape, task.products)
        if self._private:
            # The linear start is fitted without noise: only the scaling of the features is taken from it.
            return scaled_like(network, EventBert(task.model, shape, task.products))
        if self._config.pretrain_epochs:
            batches = (b for e in range(self._config.pretrain_epochs) for b in self._batches(-1 - e))
            pretrain(network.encoder, (self._examples.tokens[b] for b in batches), self._config.learning_rate)
        return network

    def epoch(self, number: int) -> None:
        """One pass over all examples; what it draws depends on the seed and its number alone."""
        torch.manual_seed(1_000 * self._task.seed + number)
        self.network.train()
        batches = list(self._private.batches() if self._private else self._batches(number))
        bar = self._task.progress.add_task(f"epoch {number}", total=len(batches))
        for rows in batches:
            self._step(rows)
            self._task.progress.advance(bar)
        self._task.progress.remove_task(bar)
        self.network.eval()

    def _step(self, rows: Array) -> None:
        self._adam.zero_grad()
        if self._private:
            self._private.backward(self.network, rows)
        else:
            loss = self._objective(_outputs(self.network, self._examples, rows), self._objective.targets(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._config.clip_norm)
        self._adam.step()
        self._schedule.step()

    def _batches(self, number: int) -> Iterator[Array]:
        """Rows of all examples once, shuffled, in batches of like history length."""
        rng = np.random.default_rng((self._task.seed, number % 2**32))
        size = self._config.batch_size
        order = rng.permutation(len(self._examples))
        batches = []
        for begin in range(0, len(order), size * _POOL_BATCHES):
            pool = order[begin : begin + size * _POOL_BATCHES]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        for i in rng.permutation(len(batches)).tolist():
            yield batches[i]

    def keep(self) -> None:
        """Take the present weights for the best."""
        self._best = copy.deepcopy(self.network.state_dict())

    def best(self) -> EventBert:
        """The network with the best weights, on the CPU."""
        self.network.load_state_dict(self._best)
        return self.network.cpu().eval()

    def save(self, losses: list[float]) -> None:
        """Keep all that the next epoch depends on, in one step."""
        path = self._task.checkpoint
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "best": self._best,
            "adam": self._adam.state_dict(),
            "schedule": self._schedule.state_dict(),
            "losses": losses,
        }
        new = path.with_suffix(".new")
        torch.save(state, new)
        new.replace(path)

    def restore(self) -> list[float]:
        """Go on from what was saved; returns the validation losses so far, none where nothing was."""
        path = self._task.checkpoint
        if path is None or not path.is_file():
            return []
        # weights_only: a checkpoint is data, whatever it was replaced with.
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self._best = state["best"]
        self._adam.load_state_dict(state["adam"])
        self._schedule.load_state_dict(state["schedule"])
        losses: list[float] = state["losses"]
        self._task.progress.console.print(f"going on after epoch {len(losses) - 1}, kept in {path}")
        return losses


def reproducible(seed: int, threads: int) -> None:
    """Make torch give the same weights for the same seed on one kind of CPU."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then a half cosine down to a twentieth."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _outputs(network: EventBert, examples: Examples, rows: Array) -> tuple[torch.Tensor, ...]:
    tokens = examples.tokens[rows]
    width = padded_length(int((tokens[:, :, _TYPE] > 0).sum(axis=1).max()))
    device = network.mean.device
    # Half the memory and time where the hardware has it; on a CPU it is slower and rounds for nothing.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        out: tuple[torch.Tensor, ...] = network(
            torch.from_numpy(tokens[:, :width].astype(np.int32)).to(device),
            torch.from_numpy(examples.features[rows]).to(device),
        )
    return out


@torch.no_grad()
def _held_out_loss(network: EventBert, objective: Objective, examples: Examples) -> float:
    """Loss that calibration would leave: cross-entropies after Platt scaling, the rest as it is."""
    network.eval()
    z, rest = np.empty((len(examples), len(objective.weights)), np.float32), 0.0
    lengths = (examples.tokens[:, :, _TYPE] > 0).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), _EVALUATED_ROWS):
        rows = order[begin : begin + _EVALUATED_ROWS]
        outputs = _outputs(network, examples, rows)
        z[rows] = torch.cat((outputs[0][:, None], outputs[1]), dim=1).float().cpu().numpy()
        rest += float(objective.uncalibrated(outputs, objective.targets(rows))) * len(rows) / len(examples)
    return rest + sum(
        weight * _calibrated_loss(z[:, h], y)
        for h, (weight, y) in enumerate(zip(objective.weights, examples.outcomes.T, strict=True))
    )


def _calibrated_loss(logits: Array, y: Array) -> float:
    odds = log_odds(logits, fit_platt(logits, y))
    return float(np.logaddexp(0, np.where(y > 0, -odds, odds)).mean())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
