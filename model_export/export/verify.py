"""Verify: checks that every variant of an exported model gives what the trained network gives.

Logits are compared row by row; rank and AUC are compared over all rows.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnx
import onnxruntime

from model_export.data import dataset
from model_export.data import event_log as history
from model_export.export.precision_loss import ALONE_MAX
from model_export.metrics.measures import auc, spearman
from model_export.metrics.ranking import rank_predictions
from model_export.run_folder import Run, Sample, load_run, predict
from stream.arrays import Floats
from stream.errors import ContractError
from stream.score.scorer import RawScores, Scorer

__all__ = ["TOLERANCES", "Fusions", "Parity", "check", "fusions", "parity_table", "verify"]

_ATTENTION: Final = ("Attention", "MultiHeadAttention", "QAttention")
_NORMS: Final = ("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")


@dataclass(frozen=True, slots=True)
class _Tolerance:
    """How much a variant may differ from torch."""

    #: Largest difference in logits.
    error: float
    #: Least rank correlation of an output.
    spearman: float
    #: Largest difference in the AUC of a head.
    auc: float


#: fp32: ten times what kernels of other CPUs were seen to differ by. Two users whose scores are that close may change
#: places, which moves the AUC of 50 against 50 users by 4e-4. fp16 and int8: five and two times what random networks of
#: width 32 and 128 were seen to lose (0.01 and 0.3 in logits). Half a logit moves a probability by 0.12 at most, and
#: only for one row of hundreds; rank and AUC limit the rest. 0.005 of AUC is a fourth of a 95 % interval here.
TOLERANCES: Final = {
    "fp32": _Tolerance(1e-4, 0.9999, 5e-4),
    "fp16": _Tolerance(0.05, 0.999, 1e-3),
    "int8": _Tolerance(0.6, 0.99, 5e-3),
}


@dataclass(frozen=True, slots=True)
class Fusions:
    """How many nodes of each kind onnxruntime runs."""

    attention: int
    norms: int


@dataclass(frozen=True, slots=True)
class Parity:
    """One variant compared with torch over ``rows``, on one CPU thread."""

    variant: str
    rows: int
    #: Largest difference in logits.
    error: float
    #: Rank correlation of the output where it is worst.
    spearman: float
    #: Largest difference in the AUC of a head; None if no head has labels of both classes.
    auc_loss: float | None
    #: Largest difference between a row alone and the same row in the batch.
    alone: float
    fusions: Fusions
    #: Bytes of the model file.
    size: int
    #: Users per second, for information.
    users_s: float


def verify(folder: Path, run_folder: Path, *, data: Path | None = None, rows_max: int = 2_000) -> tuple[Parity, ...]:
    """Compare every variant with torch on the run's sample, or on rows of the test split of ``data``.

    Raises ContractError if a variant differs by more than its tolerance.
    """
    run, network, sample, digest = load_run(run_folder)
    scorer = Scorer(folder)
    made_from = scorer.manifest.recipe.get("weights_sha256")
    if made_from != digest:
        raise ContractError(
            f"{folder} was exported from weights {str(made_from)[:12]}, the run {run_folder} has {digest[:12]}; "
            "give the run that it came from, or export it again"
        )
    if data is not None:
        sample = _test_rows(run, data, rows_max)
    expected = predict(network, sample.tokens, sample.features)
    parities = []
    for variant, file in scorer.manifest.variants.items():
        parity = _compare(Scorer(folder, variant=variant), folder / file, sample, expected)
        check(folder / file, parity, network.config.layers)
        parities.append(parity)
    return tuple(parities)


def parity_table(parities: Sequence[Parity]) -> str:
    """The comparison as text, a line for each variant."""
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
    raw = scorer.run(tokens, sample.features)
    took = time.perf_counter() - began
    ours, torchs = _columns(raw), _columns(expected)
    alone = np.concatenate(
        [_columns(scorer.run(tokens[i : i + 1], sample.features[i : i + 1])) for i in range(len(tokens))]
    )
    return Parity(
        variant=scorer.variant,
        rows=len(tokens),
        error=float(np.abs(ours - torchs).max()),
        spearman=min(spearman(rank_predictions(ours[:, c], torchs[:, c])) for c in range(ours.shape[1])),
        auc_loss=_auc_loss(raw, expected, sample),
        alone=float(np.abs(ours - alone).max()),
        fusions=fusions(file),
        size=file.stat().st_size,
        users_s=len(tokens) / took,
    )


def check(file: Path, parity: Parity, layers: int) -> None:
    """Raise ContractError that names the first measure of a variant that is beyond its tolerance."""
    tolerance, nodes = TOLERANCES[parity.variant], parity.fusions
    checks = (
        ("largest error in logits", parity.error, tolerance.error, parity.error <= tolerance.error, "at most"),
        (
            "worst rank correlation",
            parity.spearman,
            tolerance.spearman,
            parity.spearman >= tolerance.spearman,
            "at least",
        ),
        ("difference in AUC", parity.auc_loss, tolerance.auc, (parity.auc_loss or 0) <= tolerance.auc, "at most"),
        ("difference of a row alone", parity.alone, ALONE_MAX, parity.alone <= ALONE_MAX, "at most"),
        # One attention per layer; a layer norm after each half of a layer, and one after the embeddings.
        ("count of fused attention nodes", nodes.attention, layers, nodes.attention == layers, "exactly"),
        ("count of fused layer norms", nodes.norms, 2 * layers + 1, nodes.norms == 2 * layers + 1, "exactly"),
    )
    for what, number, bound, passed, relation in checks:
        if not passed:
            raise ContractError(
                f"{file}: {what} is {number:.3g}, expected {relation} {bound:g}; export the model again, "
                f"without {parity.variant} where only that fails"
            )


def fusions(model: Path) -> Fusions:
    """Count the nodes of a model file as onnxruntime runs it on a CPU, after its own optimisation."""
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(scratch) / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        counts = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return Fusions(*(sum(counts[name] for name in names) for names in (_ATTENTION, _NORMS)))


def _auc_loss(raw: RawScores, expected: RawScores, sample: Sample) -> float | None:
    """Largest difference in AUC over the heads whose labels have both classes; None if there is none."""
    labels = np.column_stack((sample.churn, sample.purchase))
    ours, torchs = raw.logits, expected.logits
    losses = [
        abs(auc(rank_predictions(ours[:, h], labels[:, h])) - auc(rank_predictions(torchs[:, h], labels[:, h])))
        for h in range(labels.shape[1])
        if 0 < labels[:, h].sum() < len(labels)
    ]
    return max(losses, default=None)


def _test_rows(run: Run, data: Path, rows_max: int) -> Sample:
    """Rows of the test split of ``data``, drawn with the run's seed."""
    settings = run.settings
    log = history.load(msgspec.structs.replace(settings.data, source=str(data)))
    built = dataset.build(log, settings.labels, settings.snapshots, settings.seed)
    test = built.test.thinned(rows_max, np.random.default_rng(settings.seed))
    return Sample(test.tokens, test.features, test.churn, test.purchase, test.value)


def _columns(raw: RawScores) -> Floats:
    return np.column_stack((raw.churn, raw.purchase, raw.value, raw.category)).astype(np.float64)
