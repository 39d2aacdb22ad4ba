"""Scorer: token arrays and features → raw scores, by a model folder that is checked before it serves.

At start-up the golden cases of the folder are run through the session. That verifies the model on this machine, and
it warms the session up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from stream.arrays import FeatureRows, Numbers, RawOutputs, TokenRows
from stream.contract.columns import HISTORY_LEN
from stream.contract.files import read_listed
from stream.contract.manifest import GOLDEN_FILE, MANIFEST_FILE, GoldenCase, Manifest, read_manifest
from stream.contract.tokens import CHANNELS, LENGTHS
from stream.errors import ConfigError, ContractError, ScoringError
from stream.score.encode import padded_length
from stream.score.session import open_session
from stream.score.signature import Verify, no_signature

__all__ = ["DEMO_MODEL", "RawScores", "Scorer", "golden_file"]

#: The model folder that is shipped with the package.
DEMO_MODEL: Final = Path(__file__).parents[1] / "models" / "demo"
#: Largest difference from a golden case, in logits. fp32: ten times the largest difference seen on other CPUs. fp16 and
#: int8: enough for a CPU that rounds an activation to the next step, at most a fifth of the loss that verify allows.
GOLDEN_TOLERANCE: Final = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-1}
#: A user's scores must be the same to the bit in any batch. onnxruntime's CPU kernels take rows four at a time and add
#: up the remaining rows in another order (measured: 5e-7 in logits). Our exported graphs avoid a remainder: they copy
#: each user's row four times. If the golden cases show that this does not help for a model or on a CPU, each group of
#: users is filled up to a multiple of this.
_ROWS_MULTIPLE: Final = 8
_TYPE: Final = CHANNELS.index("type")
#: Number of events → length to which they are padded.
_PADDED: Final = np.array([padded_length(n) for n in range(HISTORY_LEN + 1)])


@dataclass(frozen=True, slots=True)
class RawScores:
    """Uncalibrated outputs of ``n`` users: ``churn`` (n,), ``purchase`` (n, horizons), ``value`` (n, 2).

    ``category`` is ``(n, K)``. A model without that head has K = 0, and then the argument may be left out.
    ``n_positions`` counts the token positions that were run for these users, padding included.
    """

    churn: RawOutputs
    purchase: RawOutputs
    value: RawOutputs
    category: RawOutputs = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    n_positions: int = field(default=0, kw_only=True)

    @property
    def logits(self) -> RawOutputs:
        """The logits of all probabilities, ``(n, heads)``; churn is the first."""
        return np.column_stack((self.churn, self.purchase))

    @property
    def columns(self) -> RawOutputs:
        """All outputs side by side, ``(n, columns)``."""
        return np.column_stack((self.churn, self.purchase, self.value, self.category))

    def split(self, sizes: Sequence[int]) -> list[RawScores]:
        """Split the outputs of groups of users that were run together; ``sizes`` are the groups' numbers of users."""
        ends = np.cumsum(sizes).tolist()
        groups = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [RawScores(self.churn[g], self.purchase[g], self.value[g], self.category[g]) for g in groups]


class Scorer:
    """One model folder in one inference session; ``variant`` is one of those in its manifest.

    Raises ConfigError or ContractError if the folder, the variant or the provider cannot serve.
    """

    def __init__(
        self,
        folder: Path,
        *,
        provider: str = "cpu",
        threads: int = 1,
        variant: str = "fp32",
        verify: Verify = no_signature,
    ) -> None:
        self.manifest: Manifest
        self.manifest, self.sha256 = read_manifest(folder, verify)
        self.provider, self.variant = provider, variant
        self._outputs = ["churn", "purchase", "value", *(["category"] if self.manifest.categories else [])]
        graph = _model_file(folder, self.manifest, variant)
        self._session = open_session(folder / graph, self._read(folder, graph), provider, threads)
        self._rows_multiple = 1
        self._check_golden(folder / golden_file(variant), self._read(folder, golden_file(variant)))

    def run(self, tokens: TokenRows, features: FeatureRows) -> RawScores:
        """Raw scores of ``n`` users: tokens ``(n, length, channels)``, features ``(n, features)``.

        The scores of a user do not depend on the other users. Users are run in groups of similar history length, so
        that short histories are not padded to the longest. Raises ScoringError if the model fails.
        """
        n, n_positions = len(tokens), 0
        widths = ((), (len(self.manifest.labels.purchase_days),), (2,), (len(self.manifest.categories),))
        out = [np.empty((n, *width), np.float32) for width in widths]
        padded = _PADDED[np.count_nonzero(tokens[:, :, _TYPE], axis=1)]
        for length in LENGTHS:
            rows = np.flatnonzero(padded == length)
            if not len(rows):
                continue
            filled = np.append(rows, np.repeat(rows[:1], -len(rows) % self._rows_multiple))
            outputs = self._infer(tokens[filled, :length], features[filled])
            # Without a category head there are three outputs, and the fourth array stays empty.
            for column, output in zip(out, outputs, strict=False):
                column[rows] = output[: len(rows)]
            n_positions += len(filled) * length
        churn, purchase, value, category = out
        return RawScores(churn, purchase, value, category, n_positions=n_positions)

    def _read(self, folder: Path, name: str) -> bytes:
        return read_listed(folder / MANIFEST_FILE, name, self.manifest.files[name])

    def _infer(self, tokens: TokenRows, features: FeatureRows) -> list[RawOutputs]:
        try:
            outputs: list[RawOutputs] = self._session.run(self._outputs, {"tokens": tokens, "features": features})
        except Exception as error:
            one_line = " ".join(str(error).split())
            raise ScoringError(f"the model could not be run on a batch of {len(tokens)}: {one_line}") from error
        if not all(np.isfinite(output).all() for output in outputs):
            raise ScoringError(
                "the model gave NaN or infinity, expected finite numbers; check the provider's libraries"
            )
        return outputs

    def _check_golden(self, path: Path, data: bytes) -> None:
        """Compare the outputs for the golden cases with the expected ones, and find the row multiple that is needed."""
        tokens, features, expected = _read_golden(path, data)
        outputs, tolerance = self.run(tokens, features).columns, GOLDEN_TOLERANCE[self.variant]
        if any((self.run(tokens[:n], features[:n]).columns != outputs[:n]).any() for n in range(1, len(tokens))):
            self._rows_multiple = _ROWS_MULTIPLE
            outputs = self.run(tokens, features).columns
        if outputs.shape != expected.shape:
            raise ContractError(
                f"{path}: the model has {outputs.shape[1]} outputs, the golden cases {expected.shape[1]}; "
                "export the model again"
            )
        worst = float(np.abs(outputs - expected).max())
        if not worst <= tolerance:
            raise ContractError(
                f"{path}: outputs differ from the golden cases by {worst:.1e}, expected at most "
                f"{tolerance:.0e}; the model or the runtime is not what was exported: export it again"
            )


def golden_file(variant: str) -> str:
    """Name of the file with the golden cases of a variant; the outputs in it come from that variant.

    >>> golden_file("fp32"), golden_file("int8")
    ('golden.jsonl', 'golden.int8.jsonl')
    """
    return GOLDEN_FILE if variant == "fp32" else f"golden.{variant}.jsonl"


def _model_file(folder: Path, manifest: Manifest, variant: str) -> str:
    files = {str(name): file for name, file in manifest.variants.items()}
    if variant not in files:
        raise ConfigError(
            f"model folder {folder} has no variant {variant!r}, it has {', '.join(sorted(files))}; "
            "choose one of them or export the model with it"
        )
    if golden_file(variant) not in manifest.files:
        raise ContractError(f"{folder / MANIFEST_FILE} does not list {golden_file(variant)}; export the model again")
    return files[variant]


def _read_golden(path: Path, data: bytes) -> tuple[TokenRows, FeatureRows, Numbers]:
    """Token arrays, features and expected outputs of the golden cases, with a row for each case."""
    try:
        cases = [msgspec.json.decode(line, type=GoldenCase) for line in data.splitlines()]
        tokens = np.zeros((len(cases), HISTORY_LEN, len(CHANNELS)), np.int32)
        for row, case in zip(tokens, cases, strict=True):
            row[: len(case.tokens)] = case.tokens
        features = np.array([case.features for case in cases], np.float32)
        expected = np.array([[case.churn, *case.purchase, *case.value, *case.category] for case in cases])
    except (msgspec.DecodeError, ValueError) as error:
        raise ContractError(f"{path} cannot be read: {error}; export the model again") from None
    if not cases:
        raise ContractError(f"{path} holds no golden case; export the model again")
    return tokens, features, expected
