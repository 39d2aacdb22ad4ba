"""Descent: trains one network by AdamW, epoch by epoch, and keeps its state so that it can go on after a stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from model_export.data.examples import Examples, Outcomes
from model_export.network.event_bert import EventBert
from model_export.network.initial_weights import new_network
from model_export.network.loss import Objective
from model_export.training.dp_sgd import PrivateGradients, copy_feature_scaling
from model_export.training.pretrain import pretrain
from model_export.training.task import Task
from stream.arrays import Counts, Rows
from stream.contract.tokens import CHANNELS
from stream.errors import ConfigError
from stream.score.encode import padded_length

__all__ = ["Descent", "event_counts", "outputs_of", "reproducible"]

#: Examples are shuffled in pools of this many batches; within a pool, batches are made of histories of like length.
_POOL_BATCHES: Final = 32
_TYPE: Final = CHANNELS.index("type")


class Descent:
    """AdamW with warm-up, cosine decay and clipped gradients, over seeded batches."""

    def __init__(self, task: Task, examples: Examples, soft_targets: Outcomes | None) -> None:
        config = task.config
        reproducible(task.seed, config.threads)
        self._task, self._config, self._examples = task, config, examples
        self._objective = Objective(config, examples, task.categories, soft_targets)
        self._private = self._private_gradients()
        self._event_counts = event_counts(examples)
        self.network = self._initial_network().to(_device())
        self._best = copy.deepcopy(self.network.state_dict())
        self._adam = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        passes = self._private.steps if self._private else math.ceil(len(examples) / config.batch_size)
        steps = config.epochs * passes
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._adam, lambda n: _rate(n, steps, config.warmup))

    def _private_gradients(self) -> PrivateGradients | None:
        """The source of gradients of a private training; None if training is not private."""
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

    def _initial_network(self) -> EventBert:
        """The network before its first epoch."""
        task = self._task
        if task.warm is not None:
            return copy.deepcopy(task.warm)
        shape = task.shape(self._examples.purchase.shape[1])
        network = new_network(self._examples, task.model, shape, task.products)
        if self._private:
            # The linear start was fitted without noise, so only the scaling of the features is taken from it.
            return copy_feature_scaling(network, EventBert(task.model, shape, task.products))
        if self._config.pretrain_epochs:
            batches = (b for e in range(self._config.pretrain_epochs) for b in self._batches(-1 - e))
            pretrain(network.encoder, (self._examples.tokens[b] for b in batches), self._config.learning_rate)
        return network

    def epoch(self, number: int) -> None:
        """One pass over all examples. What it draws depends only on the seed and on its number."""
        torch.manual_seed(1_000 * self._task.seed + number)
        self.network.train()
        batches = list(self._private.batches() if self._private else self._batches(number))
        bar = self._task.progress.add_task(f"epoch {number}", total=len(batches))
        for rows in batches:
            self._step(rows)
            self._task.progress.advance(bar)
        self._task.progress.remove_task(bar)
        self.network.eval()

    def _step(self, rows: Rows) -> None:
        self._adam.zero_grad()
        if self._private:
            self._private.backward(self.network, rows)
        else:
            loss = self._objective(outputs_of(self.network, self._examples, rows), self._objective.targets(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._config.clip_norm)
        self._adam.step()
        self._schedule.step()

    def _batches(self, number: int) -> Iterator[Rows]:
        """All rows once, shuffled, in batches of like history length."""
        rng = np.random.default_rng((self._task.seed, number % 2**32))
        size = self._config.batch_size
        order = rng.permutation(len(self._examples))
        batches = []
        for begin in range(0, len(order), size * _POOL_BATCHES):
            pool = order[begin : begin + size * _POOL_BATCHES]
            pool = pool[np.argsort(self._event_counts[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        for i in rng.permutation(len(batches)).tolist():
            yield batches[i]

    def keep(self) -> None:
        """Remember the present weights as the best ones."""
        self._best = copy.deepcopy(self.network.state_dict())

    def best(self) -> EventBert:
        """The network with the best weights, on the CPU."""
        self.network.load_state_dict(self._best)
        return self.network.cpu().eval()

    def save(self, losses: list[float]) -> None:
        """Write everything that the next epoch depends on; the file is replaced in one step."""
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
        """Go on from the state that was saved. Returns the validation losses so far; empty if nothing was saved."""
        path = self._task.checkpoint
        if path is None or not path.is_file():
            return []
        # weights_only: whatever the file was replaced with, it is read as data and never run as code.
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self._best = state["best"]
        self._adam.load_state_dict(state["adam"])
        self._schedule.load_state_dict(state["schedule"])
        losses: list[float] = state["losses"]
        self._task.progress.console.print(f"going on after epoch {len(losses) - 1}, kept in {path}")
        return losses


def reproducible(seed: int, threads: int) -> None:
    """Make torch give the same weights for the same seed, on one kind of CPU."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate at a step, as a factor: a linear warm-up, then half a cosine down to a twentieth."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def outputs_of(network: EventBert, examples: Examples, rows: Rows) -> tuple[torch.Tensor, ...]:
    """Outputs of the network for these rows; on CUDA in bfloat16."""
    tokens = examples.tokens[rows]
    width = padded_length(int((tokens[:, :, _TYPE] > 0).sum(axis=1).max()))
    device = network.mean.device
    # bfloat16 takes half the memory and time on a GPU. On a CPU it is slower, and its rounding gains nothing.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        out: tuple[torch.Tensor, ...] = network(
            torch.from_numpy(tokens[:, :width].astype(np.int32)).to(device),
            torch.from_numpy(examples.features[rows]).to(device),
        )
    return out


def event_counts(examples: Examples) -> Counts:
    """How many events the history of each example has, ``(n,)``."""
    counts: Counts = (examples.tokens[:, :, _TYPE] > 0).sum(axis=1)
    return counts


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
