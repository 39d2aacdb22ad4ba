"""Verify: the exported model gives what the trained network gives, row by row and in rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from model_export import dataset, history
from model_export.run import Run, Sample, load_run, predict
from stream.errors import ContractError
from stream.score import RawScores, Scorer

__all__ = ["Parity", "verify"]

Array = npt.NDArray[Any]
#: Largest difference in logits: ten times what fp32 kernels of other CPUs were seen to differ by.
ERROR_MAX: Final = 1e-4
#: A row alone may differ from the same row in a batch by rounding on CPUs we have not seen; on ours it does not.
ALONE_MAX: Final = 1e-6
SPEARMAN_MIN: Final = 0.9999


@dataclass(frozen=True, slots=True)
class Parity:
    """Over ``rows``: the largest error in logits, the worst rank correlation of an output, row alone against batch."""

    rows: int
    error: float
    spearman: float
    alone: float


def verify(folder: Path, run_folder: Path, *, data: Path | None = None, rows_max: int = 2_000) -> Parity:
    """Compare on the run's sample, or on test-window rows of ``data``; raises ContractError where they disagree."""
    run, network, sample, digest = load_run(run_folder)
    scorer = Scorer(folder)
    made_from = scorer.manifest.recipe.get("weights_sha256")
    if made_from != digest:
        raise ContractError(
            f"{folder} was exported from weights {str(made_from)[:12]}, the run {run_folder} has {digest[:12]}; "
            "give the run that it came from, or export it again"
        )
    if data is not None:
        sample = _rows(run, data, rows_max)
    tokens = sample.tokens.astype(np.int32)
    ours = _columns(scorer.run(tokens, sample.features))
    torchs = _columns(predict(network, tokens, sample.features))
    alone = np.concatenate(
        [_columns(scorer.run(tokens[i : i + 1], sample.features[i : i + 1])) for i in range(len(tokens))]
    )
    parity = Parity(
        len(tokens),
        float(np.abs(ours - torchs).max()),
        min(_spearman(ours[:, c], torchs[:, c]) for c in range(ours.shape[1])),
        float(np.abs(ours - alone).max()),
    )
    _check(folder, parity)
    return parity


def _check(folder: Path, parity: Parity) -> None:
    checks = (
        ("largest error in logits", parity.error, ERROR_MAX, parity.error <= ERROR_MAX, "at most"),
        ("worst rank correlation", parity.spearman, SPEARMAN_MIN, parity.spearman >= SPEARMAN_MIN, "at least"),
        ("difference of a row alone", parity.alone, ALONE_MAX, parity.alone <= ALONE_MAX, "at most"),
    )
    for what, found, bound, passed, relation in checks:
        if not passed:
            raise ContractError(
                f"{folder}: {what} is {found:.2e}, expected {relation} {bound:g}; export the model again"
            )


def _rows(run: Run, data: Path, rows_max: int) -> Sample:
    """Rows of the test window of another reading of the data, drawn with the run's seed."""
    log = history.load(msgspec.structs.replace(run.data, source=str(data)))
    test = dataset.build(log, run.plan).test
    rows = np.random.default_rng(run.fit.seed).permutation(len(test))[:rows_max]
    return Sample(test.tokens[rows], test.features[rows])


def _columns(raw: RawScores) -> Array:
    return np.column_stack((raw.churn, raw.purchase, raw.value)).astype(np.float64)


def _spearman(a: Array, b: Array) -> float:
    """Rank correlation (Spearman 1904); equal values rank by their place, alike on both sides."""
    ranks = [np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if len(a) > 1 else 1.0
