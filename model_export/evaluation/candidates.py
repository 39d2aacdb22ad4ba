"""Candidates: every model that an evaluation compares. All are trained, calibrated and refitted in the same way.

=============  ===============================================================================================
recency        logistic regression on days since the last event alone
logistic       logistic regression on all features
lightgbm       boosted trees on all features
bgnbd          BG/NBD and Gamma-Gamma on the orders alone
event_bert     the network without the numeric features
fused          the network as it is served
lightgbm_bert  boosted trees on all features and the embedding of the events by the fused network's encoder
=============  ===============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
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
from stream.arrays import FeatureRows
from stream.score.calibration import sigmoid
from stream.score.expectation import expected_value

__all__ = ["ABLATIONS", "CANDIDATES", "SEEDED", "Candidates"]

#: Learning rate of the network without numeric features: it has no linear start, so it has more to learn.
_RATE_FROM_NOTHING: Final = 2e-3


@dataclass(frozen=True, slots=True)
class Candidates:
    """A method for each candidate, which trains it and scores one test set.

    ``log`` and ``examples`` hold only what was known at the end of that test set. Examples are those at snapshots.
    """

    settings: Settings
    log: EventLog
    examples: Dataset
    progress: Progress
    products: ProductTable | None = None
    #: Trained networks by their settings: two candidates use the fused one.
    _learned: dict[bytes, Model] = field(default_factory=dict)

    def recency(self, seed: int) -> Scores:  # noqa: ARG002 - all candidates take the same arguments
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
        """The network without numeric features."""
        fit = msgspec.structs.replace(self.settings.fit, learning_rate=_RATE_FROM_NOTHING)
        return self._network(self._learn(seed, fit=fit, use_numeric=False))

    def lightgbm_bert(self, seed: int) -> Scores:
        """Boosted trees on the features and the encoder's embedding, from the network that scored each split."""
        model = self._learn(seed)
        served = {id(self.examples.recent), id(self.examples.test)}

        def inputs(part: Examples) -> FeatureRows:
            network = model.network if id(part) in served else model.validated
            return np.column_stack((part.features, _embedding(network, part)))

        return self._score(LightGbm(seed, inputs, threads=self.settings.fit.threads))

    def without_time(self, seed: int) -> Scores:
        """The fused network without the channels that tell time."""
        return self._network(self._learn(seed, use_time=False))

    def with_pretraining(self, seed: int) -> Scores:
        """The fused network with an encoder that first learned to guess hidden events."""
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


Candidate = Callable[[Candidates, int], Scores]
CANDIDATES: Final[dict[str, Candidate]] = {
    "recency": Candidates.recency,
    "logistic": Candidates.logistic,
    "lightgbm": Candidates.lightgbm,
    "bgnbd": Candidates.bgnbd,
    "event_bert": Candidates.event_bert,
    "fused": Candidates.fused,
    "lightgbm_bert": Candidates.lightgbm_bert,
}
#: Variants of the fused network that show what its parts are worth. ``event_bert`` is the one without numeric features.
ABLATIONS: Final[dict[str, Candidate]] = {
    "fused_without_time": Candidates.without_time,
    "fused_with_pretraining": Candidates.with_pretraining,
    "fused_without_text": Candidates.without_text,
}
#: Candidates whose scores depend on the seed.
SEEDED: Final = frozenset({"lightgbm", "event_bert", "fused", "lightgbm_bert"})


@torch.no_grad()
def _embedding(network: EventBert, examples: Examples) -> FeatureRows:
    """The encoder's vector ``(n, width)`` of each example."""
    vectors = np.empty((len(examples), network.encoder.width), np.float32)
    for rows, batch in by_length(examples.tokens):
        vectors[rows] = network.encoder(torch.from_numpy(batch)).numpy()
    return vectors
