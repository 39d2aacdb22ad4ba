"""Precision loss: measures how far the outputs of a number format are from those of fp32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_export.metrics.measures import spearman
from model_export.metrics.ranking import rank_predictions
from model_export.run_folder import Tokens
from stream.arrays import FeatureRows, Floats
from stream.score.session import open_session

__all__ = ["ALONE_MAX", "BATCH_ROWS", "PrecisionLoss", "outputs", "precision_loss"]

#: A row alone may differ from the same row in a batch by this much, for the rounding of CPUs that we have not seen. On
#: the CPUs that we have seen it does not differ.
ALONE_MAX: Final = 1e-6
#: Rows that are run at once: a multiple of the rows that onnxruntime's kernels take together.
BATCH_ROWS: Final = 64
#: How many rows are run alone.
_ALONE_ROWS: Final = 16
#: Batches are filled up to a multiple of this, so that a row gives the same in any batch; see ``stream.score.scorer``.
_ROWS_MULTIPLE: Final = 8


@dataclass(frozen=True, slots=True)
class PrecisionLoss:
    """What a graph loses against fp32."""

    #: Largest and mean difference in logits.
    error: float
    mean_error: float
    #: Rank correlation of the output where it is worst.
    spearman: float
    #: Largest difference between a row alone and the same row in a batch.
    alone: float


def precision_loss(graph: bytes, expected: Floats, tokens: Tokens, features: FeatureRows) -> PrecisionLoss:
    """Compare the outputs of ``graph`` with the outputs ``expected (n, columns)`` of fp32."""
    session = open_session(Path("model.onnx"), graph, "cpu", 1)
    actual = _run(session, tokens, features)
    some = np.linspace(0, len(tokens) - 1, min(_ALONE_ROWS, len(tokens))).astype(int)
    alone = np.concatenate([_run(session, tokens[[i]], features[[i]]) for i in some])
    error = np.abs(actual - expected)
    ranks = [spearman(rank_predictions(actual[:, c], expected[:, c])) for c in range(expected.shape[1])]
    return PrecisionLoss(float(error.max()), float(error.mean()), min(ranks), float(np.abs(alone - actual[some]).max()))


def outputs(graph: bytes, tokens: Tokens, features: FeatureRows) -> Floats:
    """All outputs of a graph on the CPU, ``(n, columns)`` in the order of the graph."""
    return _run(open_session(Path("model.onnx"), graph, "cpu", 1), tokens, features)


def _run(session: Any, tokens: Tokens, features: FeatureRows) -> Floats:
    """Outputs of the rows. Copies of the last row fill the batch up to a number of rows that kernels take together."""
    n = len(tokens)
    rows = np.minimum(np.arange(n + -n % _ROWS_MULTIPLE), n - 1)
    parts = [rows[i : i + BATCH_ROWS] for i in range(0, len(rows), BATCH_ROWS)]
    batches = [session.run(None, {"tokens": tokens[p].astype(np.int32), "features": features[p]}) for p in parts]
    return np.concatenate([np.column_stack(columns) for columns in batches])[:n].astype(np.float64)
