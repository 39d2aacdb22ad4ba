"""Scored: a baseline fitted, calibrated and fitted anew on the newest labels, as the network is."""

from __future__ import annotations

from model_export.baselines import Baseline
from model_export.data.dataset import Dataset
from model_export.evaluation.evaluation_folder import Scores
from model_export.settings import Settings
from model_export.training.calibration import calibrate_heads, has_enough, recalibrated_heads, recalibrated_value_factor
from stream.score.calibration import probabilities, sigmoid

__all__ = ["score_baseline"]


def score_baseline(model: Baseline, examples: Dataset, settings: Settings) -> Scores:
    """Scores of the test examples; a head that ranks worse than chance on validation says its base rate."""
    labels, enough, drift = settings.labels, settings.export.sufficient_events, settings.fit.drift
    validation, test = examples.validation, examples.test
    model.fit(examples.train, validation, labels)
    held_out = model.predict(validation)
    heads = calibrate_heads(held_out.logits, validation, labels, enough, strict=False)
    factor = float(validation.value.sum() / max(held_out.value.sum(), 1e-9))
    model.refit(examples.recent, int(test.as_of.min()))
    newest, scored = model.predict(validation), model.predict(test)
    heads = recalibrated_heads(heads, newest.logits, validation, sufficient_events=enough, drift=drift)
    return Scores(
        probabilities(scored.logits, heads, has_enough(test, enough)),
        scored.value * recalibrated_value_factor(factor, newest.value, validation, drift),
        sigmoid(scored.logits),
        scored.value,
    )
