"""Start: a new network that gives what linear models of the standardised features give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from model_export.data.examples import Examples
from model_export.network.event_bert import LOG_SIGMA_MAX, EventBert, ModelConfig, Shape
from model_export.text.products import ProductTable

__all__ = ["fresh"]

Array = npt.NDArray[Any]
#: Features are cut at these quantiles: what one user in a thousand shows is no basis for a slope.
_RANGE = (0.001, 0.999)


def fresh(examples: Examples, config: ModelConfig, shape: Shape, products: ProductTable | None = None) -> EventBert:
    """A network at its linear start on ``examples``; without numeric features it starts at the base rates."""
    network = EventBert(config, shape, products)
    x = examples.features.astype(np.float64)
    low, high = np.quantile(x, _RANGE, axis=0)
    x = np.clip(x, low, high)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 0.05)
    for buffer, values in ((network.low, low), (network.high, high), (network.mean, mean), (network.scale, scale)):
        buffer.copy_(torch.from_numpy(values))
    z = (x - mean) / scale if config.use_numeric else np.zeros((len(x), 0))
    silent = ~examples.at_event if (~examples.at_event).any() else examples.at_event
    slopes, starts = _linear(z, examples, silent)
    with torch.no_grad():
        network.heads.bias.copy_(torch.from_numpy(starts))
        if config.use_numeric:
            network.linear.weight.copy_(torch.from_numpy(slopes))
        if config.use_numeric and _both_outcomes(examples, examples.at_event):
            others, their_starts = _linear(z, examples, examples.at_event)
            more = np.column_stack((others - slopes, their_starts - starts))
            network.just_now.copy_(torch.from_numpy(more))
    return network


def _linear(z: Array, examples: Examples, rows: Array) -> tuple[Array, Array]:
    """Slopes ``(outputs, n)`` and starts ``(outputs,)`` of linear models of these rows."""
    heads = [_logistic(z[rows], y[rows]) for y in examples.outcomes.T]
    slopes, starts = zip(*heads, *_log_linear(z[rows], examples.value[rows]), strict=True)
    return np.stack(slopes), np.array(starts)


def _both_outcomes(examples: Examples, rows: Array) -> bool:
    return bool(rows.any()) and all(len(np.unique(y[rows])) == 2 for y in examples.outcomes.T)


def _logistic(z: Array, y: Array) -> tuple[Array, float]:
    if not z.shape[1]:
        rate = (y.sum() + 0.5) / (len(y) + 1)
        return z[0], math.log(rate / (1 - rate))
    model = LogisticRegression(C=0.1, max_iter=500).fit(z, y)
    return model.coef_[0], float(model.intercept_[0])


def _log_linear(z: Array, value: Array) -> list[tuple[Array, float]]:
    """Ridge regression of the log value of those who bought, and the width of its error for all alike."""
    none = np.zeros(z.shape[1])
    bought = value > 0
    if not bought.any():
        return [(none, 0.0), (none, 0.0)]
    worth = np.log(value[bought])
    if z.shape[1]:
        model = Ridge(alpha=10.0).fit(z[bought], worth)
        slopes, start, error = model.coef_, float(model.intercept_), worth - model.predict(z[bought])
    else:
        slopes, start, error = none, float(worth.mean()), worth - worth.mean()
    below_max = max(LOG_SIGMA_MAX - math.log(max(float(np.std(error)), 0.01)), 0.1)
    # The inverse of the model's squareplus.
    return [(slopes, start), (none, below_max - 1 / below_max)]
