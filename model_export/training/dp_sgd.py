"""DP-SGD: gradients that keep the weights from telling whether a user was in the training (Abadi et al. 2016).

The unit is the user, not the example. Each step draws every user with the same chance, takes one example of each
drawn user, cuts its gradient to length ``dp_clip``, and adds Gaussian noise to the sum. Opacus tells how much noise ε
needs (by its Rényi accountant, Mironov 2017). The modules of Opacus do not take this network, which has parameters and
buffers outside the layers that they know. So the gradients of single examples come from torch.func.

The noise never depends on the seed of the settings: if you know the noise, you can take it out again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from model_export.data.examples import Examples
from model_export.network.event_bert import EventBert
from model_export.network.loss import LossConfig, Objective, Targets
from stream.arrays import Rows
from stream.contract.tokens import CHANNELS
from stream.errors import ConfigError
from stream.score.encode import padded_length

__all__ = ["PrivateConfig", "PrivateGradients", "copy_feature_scaling", "noise_multiplier"]

#: The gradients of this many examples are held at a time: 30 MB with the network of the default settings.
_CHUNK: Final = 64
_TYPE: Final = CHANNELS.index("type")


class PrivateConfig(LossConfig, frozen=True):
    """How much the weights may tell of one user; see docs/privacy.md."""

    #: Privacy budget ε of the weights: 1 is strong, 10 is weak. 0: training is not private.
    dp_epsilon: float = 0.0
    #: The chance that ε does not hold. It should be well below one over the number of users.
    dp_delta: float = 1e-6
    #: Longest gradient of one user. Longer gradients are cut; much shorter ones drown in the noise.
    dp_clip: float = 1.0


class PrivateGradients:
    """Draws batches of users and computes their noisy gradients, for at most ``epochs`` passes."""

    def __init__(
        self, config: PrivateConfig, examples: Examples, objective: Objective, *, epochs: int, batch_size: int
    ) -> None:
        self._config, self._examples, self._objective = config, examples, objective
        #: Rows of the examples, user by user; where the rows of each user begin, and how many there are.
        self._rows = np.argsort(examples.user, kind="stable")
        _, self._starts, self._counts = np.unique(examples.user[self._rows], return_index=True, return_counts=True)
        n_users = len(self._starts)
        if config.dp_delta * n_users >= 1:
            raise ConfigError(
                f"fit.dp_delta is {config.dp_delta:g} with {n_users:,} users, expected less than {1 / n_users:.1g};"
                " else giving one user away whole would be allowed"
            )
        self._expected = min(batch_size, n_users)
        self._rate = self._expected / n_users
        #: Steps of one pass: each user is drawn once on average.
        self.steps = math.ceil(n_users / self._expected)
        self.noise = noise_multiplier(config.dp_epsilon, config.dp_delta, self._rate, epochs * self.steps)
        self._rng = np.random.default_rng()
        self._generator = torch.Generator()
        self._generator.seed()

    def batches(self) -> Iterator[Rows]:
        """One batch for each step of a pass: one row of each user that was drawn. A batch may be empty."""
        for _ in range(self.steps):
            drawn = np.flatnonzero(self._rng.random(len(self._starts)) < self._rate)
            which = self._rng.integers(self._counts[drawn])
            yield self._rows[self._starts[drawn] + which]

    def backward(self, network: EventBert, rows: Rows) -> None:
        """Set the gradients of the network's parameters to the noisy mean over these rows."""
        parameters = dict(network.named_parameters())
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for begin in range(0, len(rows), _CHUNK):
            for name, part in self._clipped(network, rows[begin : begin + _CHUNK]).items():
                total[name] += part
        spread = self.noise * self._config.dp_clip
        for name, p in parameters.items():
            noise = torch.normal(0.0, spread, p.shape, generator=self._generator).to(p.device)
            p.grad = (total[name] + noise) / self._expected
        _zero_padding_gradients(network)

    def _clipped(self, network: EventBert, rows: Rows) -> dict[str, Tensor]:
        """The sum of these rows' gradients, each cut to ``dp_clip``."""
        state = {name: p.detach() for name, p in network.named_parameters()}
        fixed = dict(network.named_buffers())
        device = network.mean.device
        tokens = self._examples.tokens[rows]
        width = padded_length(int((tokens[:, :, _TYPE] > 0).sum(axis=1).max()))
        batch = self._objective.targets(rows)
        inputs = (
            torch.from_numpy(tokens[:, :width].astype(np.int32)).to(device),
            torch.from_numpy(self._examples.features[rows]).to(device),
            batch.labels.to(device),
            batch.value.to(device),
            batch.category.to(device),
        )

        def loss(weights: dict[str, Tensor], tokens: Tensor, features: Tensor, *targets: Tensor) -> Tensor:
            outputs = functional_call(network, (weights, fixed), (tokens[None], features[None]))
            labels, value, category = targets
            return example_loss(self._config, self._objective.weights, outputs, Targets(labels, value, category, None))

        each = vmap(grad(loss), in_dims=(None, *[0] * len(inputs)), randomness="different")(state, *inputs)
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in each.values()]).norm(dim=0)
        factors = (self._config.dp_clip / norms.clamp(min=1e-12)).clamp(max=1.0)
        return {name: torch.einsum("n,n...->...", factors, g) for name, g in each.items()}


def example_loss(config: LossConfig, weights: list[float], outputs: tuple[Tensor, ...], targets: Targets) -> Tensor:
    """The loss of :class:`Objective` for one example, without branches that depend on data.

    ``outputs`` are those of a batch of one. The loss of the category counts in full for an example with a next
    category, and not at all for others.
    """
    logits = torch.cat((outputs[0], outputs[1][0]))
    losses = functional.binary_cross_entropy_with_logits(logits, targets.labels, reduction="none")
    loss = (losses * torch.tensor(weights, device=logits.device)).sum()
    mu, log_sigma = outputs[2][0, 0], outputs[2][0, 1]
    error = (torch.log(torch.where(targets.value > 0, targets.value, 1.0)) - mu) / torch.exp(log_sigma)
    loss = loss + config.value_weight * torch.where(targets.value > 0, 0.5 * error**2 + log_sigma, 0.0)
    if len(outputs) > 3:
        known = targets.category >= 0
        picked = torch.log_softmax(outputs[3][0], dim=0).gather(0, targets.category.clamp(min=0)[None])[0]
        loss = loss - config.category_weight * torch.where(known, picked, 0.0)
    return loss


def copy_feature_scaling(source: EventBert, network: EventBert) -> EventBert:
    """Copy the range, mean and scale of the features from ``source`` into ``network``, and return ``network``."""
    for name in ("low", "high", "mean", "scale"):
        getattr(network, name).copy_(getattr(source, name))
    return network


def _zero_padding_gradients(network: nn.Module) -> None:
    """Keep the embeddings of padding at zero: noise must not change them."""
    for module in network.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None and module.weight.grad is not None:
            module.weight.grad[module.padding_idx] = 0.0


def noise_multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Noise, in units of ``dp_clip``, with which this many steps spend at most ε. Raises ConfigError without Opacus."""
    utils = _opacus("opacus.accountants.utils")
    noise: float = utils.get_noise_multiplier(
        target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp"
    )
    return noise


def _opacus(module: str) -> Any:
    try:
        return __import__(module, fromlist=["opacus"])
    except ImportError:
        raise ConfigError(
            "opacus is not installed, expected it for fit.dp_epsilon; install 'valuestream[train]'"
        ) from None
