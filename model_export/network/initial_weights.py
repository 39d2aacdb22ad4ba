"""Initial weights: builds a network that starts as linear models of the standardised features.

Training calls this the *linear start*: epoch 0 of a training.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from model_export.data.examples import Examples, Outcomes
from model_export.network.event_bert import LOG_SIGMA_MAX, EventBert, ModelConfig, Shape
from model_export.text.products import ProductTable
from stream.arrays import Floats, Mask

__all__ = ["new_network"]

#: Features are cut at these quantiles: a value that one user in a thousand has is no basis for a slope.
_RANGE: Final = (0.001, 0.999)
#: Slopes ``(features,)`` and intercept of one linear model.
LinearModel: TypeAlias = tuple[Floats, float]


def new_network(
    examples: Examples, config: ModelConfig, shape: Shape, products: ProductTable | None = None
) -> EventBert:
    """A network that gives what linear models fitted to ``examples`` give.

    Without numeric features it gives the base rates.
    """
    network = EventBert(config, shape, products)
    x = examples.features.astype(np.float64)
    low, high = np.quantile(x, _RANGE, axis=0)
    x = np.clip(x, low, high)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 0.05)
    for buffer, values in ((network.low, low), (network.high, high), (network.mean, mean), (network.scale, scale)):
        buffer.copy_(torch.from_numpy(values))
    z = (x - mean) / scale if config.use_numeric else np.zeros((len(x), 0))
    at_snapshot = ~examples.at_event if (~examples.at_event).any() else examples.at_event
    slopes, intercepts = _linear_models(z, examples, at_snapshot)
    with torch.no_grad():
        network.heads.bias.copy_(torch.from_numpy(intercepts))
        if config.use_numeric:
            network.linear.weight.copy_(torch.from_numpy(slopes))
        if config.use_numeric and _both_outcomes(examples, examples.at_event):
            event_slopes, event_intercepts = _linear_models(z, examples, examples.at_event)
            difference = np.column_stack((event_slopes - slopes, event_intercepts - intercepts))
            network.just_now.copy_(torch.from_numpy(difference))
    return network


def _linear_models(z: Floats, examples: Examples, rows: Mask) -> tuple[Floats, Floats]:
    """Slopes ``(outputs, features)`` and intercepts ``(outputs,)`` of linear models fitted to these rows."""
    heads = [_logistic(z[rows], y[rows]) for y in examples.outcomes.T]
    slopes, intercepts = zip(*heads, *_log_normal(z[rows], examples.value[rows]), strict=True)
    return np.stack(slopes), np.array(intercepts)


def _both_outcomes(examples: Examples, rows: Mask) -> bool:
    """Whether each head has both outcomes in these rows."""
    return bool(rows.any()) and all(len(np.unique(y[rows])) == 2 for y in examples.outcomes.T)


def _logistic(z: Floats, y: Outcomes) -> LinearModel:
    """A logistic regression; without features, the log-odds of the base rate."""
    if not z.shape[1]:
        rate = (y.sum() + 0.5) / (len(y) + 1)
        return z[0], math.log(rate / (1 - rate))
    model = LogisticRegression(C=0.1, max_iter=500).fit(z, y)
    return model.coef_[0], float(model.intercept_[0])


def _log_normal(z: Floats, value: Floats) -> list[LinearModel]:
    """Models of mu and of log-sigma: a ridge regression of the buyers' log value, and one sigma for everyone."""
    no_slopes = np.zeros(z.shape[1])
    bought = value > 0
    if not bought.any():
        return [(no_slopes, 0.0), (no_slopes, 0.0)]
    log_value = np.log(value[bought])
    if z.shape[1]:
        model = Ridge(alpha=10.0).fit(z[bought], log_value)
        slopes, intercept, error = model.coef_, float(model.intercept_), log_value - model.predict(z[bought])
    else:
        slopes, intercept, error = no_slopes, float(log_value.mean()), log_value - log_value.mean()
    below_max = max(LOG_SIGMA_MAX - math.log(max(float(np.std(error)), 0.01)), 0.1)
    # The model's log-sigma is LOG_SIGMA_MAX - squareplus(output). This output is the inverse of squareplus.
    return [(slopes, intercept), (no_slopes, below_max - 1 / below_max)]
