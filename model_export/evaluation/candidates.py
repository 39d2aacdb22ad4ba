"""Candidates: every model that is measured, behind one interface, trained, calibrated and refitted alike.

=============  ==========================================================================================
recency        logistic regression on days since the last event alone
logistic       logistic regression on all features
lightgbm       boosted trees on all features
bgnbd          BG/NBD and Gamma-Gamma on the orders alone
event_bert     the network without the numeric features
fused          the network as it is served
lightgbm_bert  boosted trees on all features and what the fused network's encoder reads in the events
=============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from model_export.baselines.baseline import Baseline, score_baseline
from model_export.baselines.bgnbd import BgNbd
from model_export.baselines.linear import Logistic, Recency
from model_export.baselines.trees import LightGbm
from model_export.data.dataset import Dataset
from model_export.data.event_log import EventLog
from model_export.data.examples import Examples
from model_export.evaluation.evaluation_folder import Scores
from model_export.network.event_bert import EventBert
from model_export.run_folder import by_length, predict
from model_export.settings import Settings
from model_export.text.products import ProductTable
from model_export.training.calibration import predicted_probabilities, predicted_value
from model_export.training.model import Model, train_model
from stream.score.calibration import sigmoid
from stream.score.expectation import expected_value

__all__ = ["ABLATIONS", "CANDIDATES", "SEEDED", "Trial"]

Array = npt.NDArray[Any]
_RATE_FROM_NOTHING: Final = 2e-3


@dataclass(frozen=True, slots=True)
class Trial:
    """One temporal snapshot: the history as it was known then, and its windows; snapshots of all users only."""

    settings: Settings
    log: EventLog
    examples: Dataset
    progress: Progress
    products: ProductTable | None = None
    #: Networks by what they were learned with: two candidates look at the fused one.
    _learned: dict[bytes, Model] = field(default_factory=dict)

    def recency(self, seed: int) -> Scores:  # noqa: ARG002 - every candidate is called alike
        """Days since the last event alone."""
        return self._score(Recency())

    def logistic(self, seed: int) -> Scores:  # noqa: ARG002
        """Logistic regression."""
        return self._score(Logistic())

    def bgnbd(self, seed: int) -> Scores:  # noqa: ARG002
        """BG/NBD and Gamma-Gamma."""
        return self._score(BgNbd(self.log))

    def lightgbm(self, seed: int) -> Scores:
        """Boosted trees."""
        return self._score(LightGbm(seed, threads=self.settings.fit.threads))

    def fused(self, seed: int) -> Scores:
        """The network as it is served."""
        return self._network(self._learn(seed))

    def event_bert(self, seed: int) -> Scores:
        """The network without numeric features; without a linear start it has further to go."""
        fit = msgspec.structs.replace(self.settings.fit, learning_rate=_RATE_FROM_NOTHING)
        return self._network(self._learn(seed, fit=fit, use_numeric=False))

    def lightgbm_bert(self, seed: int) -> Scores:
        """Boosted trees on the features and the encoder's vector, each window's from the network that served it."""
        model = self._learn(seed)
        now = {id(self.examples.recent), id(self.examples.test)}

        def inputs(part: Examples) -> Array:
            network = model.network if id(part) in now else model.validated
            return np.column_stack((part.features, _embedding(network, part)))

        return self._score(LightGbm(seed, inputs, threads=self.settings.fit.threads))

    def without_time(self, seed: int) -> Scores:
        """The fused network without the channels that tell time."""
        return self._network(self._learn(seed, use_time=False))

    def with_pretraining(self, seed: int) -> Scores:
        """The fused network whose encoder first learned to tell hidden events."""
        fit = msgspec.structs.replace(self.settings.fit, pretrain_epochs=2)
        return self._network(self._learn(seed, fit=fit))

    def without_text(self, seed: int) -> Scores:
        """The fused network without the texts of products."""
        return self._network(self._learn(seed, products=None))

    def _score(self, model: Baseline) -> Scores:
        return score_baseline(model, self.examples, self.settings)

    def _learn(self, seed: int, **changes: Any) -> Model:
        fit = changes.pop("fit", self.settings.fit)
        products = changes.pop("products", self.products)
        model = msgspec.structs.replace(self.settings.model, **changes)
        settings = msgspec.structs.replace(self.settings, seed=seed, model=model, fit=fit)
        key = msgspec.json.encode((settings, products is None))
        if key not in self._learned:
            self._learned[key] = train_model(
                settings, self.examples, seed, self.progress, products=products, strict=False
            )
        return self._learned[key]

    def _network(self, model: Model) -> Scores:
        test, labels, enough = self.examples.test, self.settings.labels, self.settings.export.sufficient_events
        raw = predict(model.network, test.tokens, test.features)
        p_raw = sigmoid(raw.logits.astype(np.float64))
        return Scores(
            predicted_probabilities(raw, test, model.calibration, enough),
            predicted_value(raw, test, model.calibration, labels=labels, sufficient_events=enough),
            p_raw,
            expected_value(p_raw[:, labels.value_head], raw.value),
        )


Candidate = Callable[[Trial, int], Scores]
CANDIDATES: Final[dict[str, Candidate]] = {
    "recency": Trial.recency,
    "logistic": Trial.logistic,
    "lightgbm": Trial.lightgbm,
    "bgnbd": Trial.bgnbd,
    "event_bert": Trial.event_bert,
    "fused": Trial.fused,
    "lightgbm_bert": Trial.lightgbm_bert,
}
#: What the parts of the fused network are worth; without numeric features it is ``event_bert``.
ABLATIONS: Final[dict[str, Candidate]] = {
    "fused_without_time": Trial.without_time,
    "fused_with_pretraining": Trial.with_pretraining,
    "fused_without_text": Trial.without_text,
}
#: Those that a seed changes.
SEEDED: Final = frozenset({"lightgbm", "event_bert", "fused", "lightgbm_bert"})


@torch.no_grad()
def _embedding(network: EventBert, examples: Examples) -> Array:
    out = np.empty((len(examples), network.encoder.width), np.float32)
    for rows, batch in by_length(examples.tokens):
        out[rows] = network.encoder(torch.from_numpy(batch)).numpy()
    return out
