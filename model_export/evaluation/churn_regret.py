"""Churn regret: how far each model is from the best that any model could say about churn of simulated shoppers.

The simulator knows how its shoppers behave. The sessions of a shopper are a Poisson process of rate λ, until a lifetime
of hazard μ ends. An oracle that knows both, but not whether a silent shopper has left, can compute the churn of a
shopper with the last session τ days ago (Schmittlein, Morrison & Colombo 1987, equations 11 and A5 with known rates;
s = λ + μ):

    P(alive)              = 1 / (1 + μ/s · (exp(s τ) − 1))
    P(no session in h)    = 1 − P(alive) · λ/s · (1 − exp(−s h))

The oracle is a little off, because it takes the last event for the last session: events that follow a session later
(refunds, reviews) count as one. It also does not know how fading shoppers behave, which a model may learn.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np

from model_export.data.event_log import SIMULATION_START, SIMULATOR, DataConfig, EventLog
from model_export.evaluation.evaluation_folder import Evaluation, load_scored_examples, load_scores
from model_export.metrics.bootstrap import Interval, TestSet, measure
from stream.arrays import Floats, Probabilities
from stream.contract.tokens import FEATURES
from stream.datasets.market import Market
from stream.errors import ConfigError

__all__ = ["churn_regret", "true_churn"]

_ORACLE: Final = "true_hazard"


def true_churn(rate: Floats, hazard: Floats, silent_days: Floats, horizon_days: float) -> Probabilities:
    """Probability ``(n,)`` of no session within the horizon, for shoppers with known rates per day.

    >>> true_churn(np.array([0.2]), np.array([0.01]), np.array([0.0]), 1e9).round(3).tolist()
    [0.048]
    """
    both = rate + hazard
    # Beyond exp(700) the shopper has left for certain, and exp(710) would overflow.
    alive = 1 / (1 + hazard / both * np.expm1(np.minimum(both * silent_days, 700)))
    churn: Probabilities = 1 - alive * rate / both * -np.expm1(-both * horizon_days)
    return churn


def churn_regret(evaluation: Evaluation, folder: Path, log: EventLog) -> dict[str, Interval]:
    """Mean log-loss of churn of each model less that of the oracle, in nats, with 95 % intervals.

    Raises ConfigError if the data does not come from the simulator.
    """
    settings = evaluation.settings
    if settings.data.source != SIMULATOR:
        raise ConfigError(f"data is {settings.data.source!r}, expected the simulator: only its truth is known")
    rates = _rates(settings.data, log)
    models = list(next(iter(evaluation.tasks.values())))
    scores = {model: load_scores(folder, model) for model in models}
    test_sets = []
    for k, examples in enumerate(load_scored_examples(folder)):
        silent = np.expm1(examples.features[:, FEATURES.index("recency")].astype(np.float64))
        rate, hazard = rates[examples.user].T
        oracle = true_churn(rate, hazard, silent, settings.labels.churn_days)
        predicted = {model: [s.p[:, 0] for s in by_test_set[k]] for model, by_test_set in scores.items()}
        test_sets.append(TestSet(examples.user, examples.labels[:, 0], {**predicted, _ORACLE: [oracle]}))
    measured = measure(test_sets, "probability", settings.evaluate.resamples, settings.seed)
    return {model: measured.difference(model, _ORACLE, "log_loss") for model in models}


def _rates(config: DataConfig, log: EventLog) -> Floats:
    """Session rate and hazard per day ``(users, 2)``, a row for each user of the log."""
    market = Market(config.users, SIMULATION_START, config.seed)
    for _ in market.events(SIMULATION_START + timedelta(days=config.days)):
        pass
    rates = {s.user_id: (s.session_rate_per_day, s.dropout_hazard_per_day) for s in market.shoppers}
    return np.array([rates[user] for user in log.names])
