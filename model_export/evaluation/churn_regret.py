"""Truth: what the simulator knows of its shoppers, as the best that any model of churn could say.

A shopper's sessions are a Poisson process of rate λ until a lifetime of hazard μ ends. Whoever knows both, but not
whether a silent shopper has left, can say of one whose last session was τ days ago (Schmittlein, Morrison & Colombo
1987, equations 11 and A5 with known rates; s = λ + μ):

    P(alive)              = 1 / (1 + μ/s · (exp(s τ) − 1))
    P(no session in h)    = 1 − P(alive) · λ/s · (1 − exp(−s h))

The last event stands for the last session, and what follows a session later (refunds, reviews) is taken for one, so
the oracle is a little off; it also does not know how fading shoppers behave, which a model may learn.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.data.event_log import SIMULATION_START, SIMULATOR, DataConfig, EventLog
from model_export.evaluation.evaluation_folder import Evaluation, load_outcomes, load_scores
from model_export.metrics.bootstrap import Interval, TestSet, measure
from stream.contract.tokens import FEATURES
from stream.datasets.market import Market
from stream.errors import ConfigError

__all__ = ["churn_regret", "true_churn"]

Array = npt.NDArray[Any]
_ORACLE = "true_hazard"


def true_churn(rate: Array, hazard: Array, silent_days: Array, horizon_days: float) -> Array:
    """Probability ``(n,)`` of no session in the horizon, of shoppers with known rates per day.

    >>> true_churn(np.array([0.2]), np.array([0.01]), np.array([0.0]), 1e9).round(3).tolist()
    [0.048]
    """
    both = rate + hazard
    # Beyond exp(700) the shopper is gone for sure.
    alive = 1 / (1 + hazard / both * np.expm1(np.minimum(both * silent_days, 700)))
    out: Array = 1 - alive * rate / both * -np.expm1(-both * horizon_days)
    return out


def churn_regret(evaluation: Evaluation, folder: Path, log: EventLog) -> dict[str, Interval]:
    """Mean log-loss of churn of each model less that of the truth, in nats, with 95 % intervals.

    Raises ConfigError where the data is not the simulator's.
    """
    settings = evaluation.settings
    if settings.data.source != SIMULATOR:
        raise ConfigError(f"data is {settings.data.source!r}, expected the simulator: only its truth is known")
    rates = _rates(settings.data, log)
    models = list(next(iter(evaluation.tasks.values())))
    scores = {model: load_scores(folder, model) for model in models}
    snapshots = []
    for k, outcomes in enumerate(load_outcomes(folder)):
        silent = np.expm1(outcomes.features[:, FEATURES.index("recency")].astype(np.float64))
        rate, hazard = rates[outcomes.user].T
        oracle = true_churn(rate, hazard, silent, settings.labels.churn_days)
        predicted: dict[str, list[Array]] = {m: [s.p[:, 0] for s in of[k]] for m, of in scores.items()}
        snapshots.append(TestSet(outcomes.user, outcomes.labels[:, 0], {**predicted, _ORACLE: [oracle]}))
    measured = measure(snapshots, "probability", settings.evaluate.resamples, settings.seed)
    return {model: measured.difference(model, _ORACLE, "log_loss") for model in models}


def _rates(config: DataConfig, log: EventLog) -> Array:
    """Session rate and hazard per day ``(users, 2)`` by index of user."""
    market = Market(config.users, SIMULATION_START, config.seed)
    for _ in market.events(SIMULATION_START + timedelta(days=config.days)):
        pass
    truth = {s.user_id: (s.session_rate_per_day, s.dropout_hazard_per_day) for s in market.shoppers}
    return np.array([truth[user] for user in log.names])
