"""Verify: every variant of an exported model gives what the trained network gives, row by row, in rank and in AUC."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from model_export.data import dataset
from model_export.data import event_log as history
from model_export.export.variants import ALONE_MAX, Fusions, fusions
from model_export.metrics.measures import auc, spearman
from model_export.metrics.ranking import rank_predictions
from model_export.run_folder import Run, Sample, load_run, predict
from stream.errors import ContractError
from stream.score.scorer import RawScores, Scorer

__all__ = ["BOUNDS", "Parity", "check", "parity_table", "verify"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Largest difference in logits, least rank correlation of an output, largest difference in AUC of a head."""

    error: float
    spearman: float
    auc: float


#: fp32: ten times what kernels of other CPUs were seen to differ by; two users that near may change places, which
#: moves the AUC of 50 against 50 users by 4e-4. fp16 and int8: five and two times what random networks of width 32 and
#: 128 were seen to lose (0.01 and 0.3 in logits). Half a logit moves a probability by 0.12 at most, and that for one
#: row of hundreds: rank and AUC hold the rest. An AUC of five in a thousand less is a fourth of a 95 % interval here.
BOUNDS: Final = {
    "fp32": _Bounds(1e-4, 0.9999, 5e-4),
    "fp16": _Bounds(0.05, 0.999, 1e-3),
    "int8": _Bounds(0.6, 0.99, 5e-3),
}


@dataclass(frozen=True, slots=True)
class Parity:
    """One variant against torch over ``rows``, on one CPU thread.

    ``error`` is the largest in logits, ``spearman`` the worst of an output, ``auc_loss`` the largest difference of a
    head (None: no head has both classes), ``alone`` a row alone against the same row in the batch; size in bytes.
    ``users_s`` is users per second, for information.
    """

    variant: str
    rows: int
    error: float
    spearman: float
    auc_loss: float | None
    alone: float
    fusions: Fusions
    size: int
    users_s: float


def verify(folder: Path, run_folder: Path, *, data: Path | None = None, rows_max: int = 2_000) -> tuple[Parity, ...]:
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
    expected = predict(network, sample.tokens, sample.features)
    out = []
    for variant, file in scorer.manifest.variants.items():
        parity = _compare(Scorer(folder, variant=variant), folder / file, sample, expected)
        check(folder / file, parity, network.config.layers)
        out.append(parity)
    return tuple(out)


def parity_table(parities: Sequence[Parity]) -> str:
    """What was compared, a line for each variant."""
    lines = ["variant   size      error     spearman  AUC loss  row alone   attention  norms  users/s"]
    for p in parities:
        auc_loss = "–" if p.auc_loss is None else f"{p.auc_loss:.1e}"
        alone = "identical" if p.alone == 0 else f"{p.alone:.1e}"
        lines.append(
            f"{p.variant:<8}  {p.size / 1e6:5.2f} MB  {p.error:.1e}   {p.spearman:.6f}  {auc_loss:<8}  {alone:<10}  "
            f"{p.fusions.attention:<9}  {p.fusions.norms:<5}  {p.users_s:,.0f}"
        )
    return "\n".join(lines)


def _compare(scorer: Scorer, file: Path, sample: Sample, expected: RawScores) -> Parity:
    tokens = sample.tokens.astype(np.int32)
    began = time.perf_counter()
    found = scorer.run(tokens, sample.features)
    took = time.perf_counter() - began
    ours, torchs = _columns(found), _columns(expected)
    alone = np.concatenate(
        [_columns(scorer.run(tokens[i : i + 1], sample.features[i : i + 1])) for i in range(len(tokens))]
    )
    return Parity(
        variant=scorer.variant,
        rows=len(tokens),
        error=float(np.abs(ours - torchs).max()),
        spearman=min(spearman(rank_predictions(ours[:, c], torchs[:, c])) for c in range(ours.shape[1])),
        auc_loss=_auc_loss(found, expected, sample),
        alone=float(np.abs(ours - alone).max()),
        fusions=fusions(file),
        size=file.stat().st_size,
        users_s=len(tokens) / took,
    )


def check(file: Path, parity: Parity, layers: int) -> None:
    """Raise ContractError with the first measure of a variant that is beyond its bound."""
    bounds, found = BOUNDS[parity.variant], parity.fusions
    checks = (
        ("largest error in logits", parity.error, bounds.error, parity.error <= bounds.error, "at most"),
        ("worst rank correlation", parity.spearman, bounds.spearman, parity.spearman >= bounds.spearman, "at least"),
        ("difference in AUC", parity.auc_loss, bounds.auc, (parity.auc_loss or 0) <= bounds.auc, "at most"),
        ("difference of a row alone", parity.alone, ALONE_MAX, parity.alone <= ALONE_MAX, "at most"),
        # One attention per layer; a layer norm after each half of a layer, and one after the embeddings.
        ("count of fused attention nodes", found.attention, layers, found.attention == layers, "exactly"),
        ("count of fused layer norms", found.norms, 2 * layers + 1, found.norms == 2 * layers + 1, "exactly"),
    )
    for what, number, bound, passed, relation in checks:
        if not passed:
            raise ContractError(
                f"{file}: {what} is {number:.3g}, expected {relation} {bound:g}; export the model again, "
                f"without {parity.variant} where only that fails"
            )


def _auc_loss(found: RawScores, expected: RawScores, sample: Sample) -> float | None:
    """Largest difference in AUC over the heads whose labels are of both classes."""
    labels = np.column_stack((sample.churn, sample.purchase))
    pairs = [raw.logits for raw in (found, expected)]
    losses = [
        abs(auc(rank_predictions(pairs[0][:, h], labels[:, h])) - auc(rank_predictions(pairs[1][:, h], labels[:, h])))
        for h in range(labels.shape[1])
        if 0 < labels[:, h].sum() < len(labels)
    ]
    return max(losses, default=None)


def _rows(run: Run, data: Path, rows_max: int) -> Sample:
    """Rows of the test window of another reading of the data, drawn with the run's seed."""
    settings = run.settings
    log = history.load(msgspec.structs.replace(settings.data, source=str(data)))
    built = dataset.build(log, settings.labels, settings.snapshots, settings.seed)
    test = built.test.thinned(rows_max, np.random.default_rng(settings.seed))
    return Sample(test.tokens, test.features, test.churn, test.purchase, test.value)


def _columns(raw: RawScores) -> Array:
    return np.column_stack((raw.churn, raw.purchase, raw.value, raw.category)).astype(np.float64)
