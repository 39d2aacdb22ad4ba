"""Score: token arrays and features → raw model outputs, by an onnxruntime session that is what it claims.

The session is made without fall-back, its provider is compared with the one asked for, and the model's golden
cases are run through it before it serves: that both verifies and warms it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream.contract.columns import HISTORY_LEN
from stream.contract.files import read_listed
from stream.contract.manifest import GOLDEN_FILE, MANIFEST_FILE, GoldenCase, Manifest, read_manifest
from stream.contract.tokens import CHANNELS, LENGTHS
from stream.errors import ConfigError, ContractError, ScoringError
from stream.score.encode import padded_length
from stream.score.external_data import check_self_contained
from stream.score.signature import Verify, no_signature

__all__ = ["DEMO_MODEL", "RawScores", "Scorer", "golden_file", "open_session"]

Array = npt.NDArray[Any]
DEMO_MODEL: Final = Path(__file__).parents[1] / "models" / "demo"
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: Largest difference from a golden case, in logits. fp32: ten times what other CPUs were seen to differ by. fp16 and
#: int8: room for a CPU that rounds an activation to the next step, at most a fifth of what verify lets them lose.
GOLDEN_TOLERANCE: Final = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-1}
#: onnxruntime's CPU kernels take rows by four and the rest one by one, which adds in another order (measured: 5e-7
#: in logits). Our exports give each of them four rows per user; of a model, or on a CPU, where that does not help,
#: groups are filled up to a multiple, so that a user's scores are the same to the bit in any company.
_ROWS_MULTIPLE: Final = 8
_TYPE: Final = CHANNELS.index("type")
#: Number of events → length that they are padded to.
_PADDED: Final = np.array([padded_length(n) for n in range(HISTORY_LEN + 1)])
#: Slower than its parts on a CPU (measured: 4 times a layer norm).
_SLOW_ON_CPU: Final = ["SkipLayerNormFusion"]


@dataclass(frozen=True, slots=True)
class RawScores:
    """Uncalibrated outputs of ``n`` users: ``churn`` (n,), ``purchase`` (n, horizons), ``value`` (n, 2).

    ``category`` (n, K) has K = 0 where the model has no such head, and may be left out then. ``n_positions`` is how
    many token positions were run for them, padding included.
    """

    churn: npt.NDArray[np.float32]
    purchase: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    category: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    n_positions: int = 0

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Of all probabilities ``(n, heads)``, churn first."""
        return np.column_stack((self.churn, self.purchase))

    @property
    def columns(self) -> npt.NDArray[np.float32]:
        """All outputs beside each other, ``(n, columns)``."""
        return np.column_stack((self.churn, self.purchase, self.value, self.category))

    def split(self, sizes: Sequence[int]) -> list[RawScores]:
        """The outputs of each of several groups of users that were run together."""
        ends = np.cumsum(sizes).tolist()
        groups = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return [RawScores(self.churn[g], self.purchase[g], self.value[g], self.category[g]) for g in groups]


class Scorer:
    """One model folder in one inference session; ``variant`` is one of the manifest's: a number format of the model."""

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

    def run(self, tokens: npt.NDArray[np.int32], features: npt.NDArray[np.float32]) -> RawScores:
        """Score ``(n, length, channels)`` and ``(n, features)``; a row's scores do not depend on the others.

        Users are run in groups of like history length, so that short histories are not padded to the longest.
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
            # Without a category head there are three outputs, and the fourth stays empty.
            for column, output in zip(out, outputs, strict=False):
                column[rows] = output[: len(rows)]
            n_positions += len(filled) * length
        churn, purchase, value, category = out
        return RawScores(churn, purchase, value, category, n_positions)

    def _read(self, folder: Path, name: str) -> bytes:
        return read_listed(folder / MANIFEST_FILE, name, self.manifest.files[name])

    def _infer(self, tokens: Array, features: Array) -> list[Array]:
        try:
            outputs: list[Array] = self._session.run(self._outputs, {"tokens": tokens, "features": features})
        except Exception as error:
            raise ScoringError(f"the model could not be run on a batch of {len(tokens)}: {_one_line(error)}") from error
        if not all(np.isfinite(output).all() for output in outputs):
            raise ScoringError(
                "the model gave NaN or infinity, expected finite numbers; check the provider's libraries"
            )
        return outputs

    def _check_golden(self, path: Path, data: bytes) -> None:
        tokens, features, expected = _read_golden(path, data)
        found, tolerance = self.run(tokens, features).columns, GOLDEN_TOLERANCE[self.variant]
        if any((self.run(tokens[:n], features[:n]).columns != found[:n]).any() for n in range(1, len(tokens))):
            self._rows_multiple = _ROWS_MULTIPLE
            found = self.run(tokens, features).columns
        if found.shape != expected.shape:
            raise ContractError(
                f"{path}: the model has {found.shape[1]} outputs, the golden cases {expected.shape[1]}; "
                "export the model again"
            )
        worst = float(np.abs(found - expected).max())
        if not worst <= tolerance:
            raise ContractError(
                f"{path}: outputs differ from the golden cases by {worst:.1e}, expected at most "
                f"{tolerance:.0e}; the model or the runtime is not what was exported: export it again"
            )


def golden_file(variant: str) -> str:
    """Name of the file of golden cases of a variant of the model; its outputs are those of that variant.

    >>> golden_file("fp32"), golden_file("int8")
    ('golden.jsonl', 'golden.int8.jsonl')
    """
    return GOLDEN_FILE if variant == "fp32" else f"golden.{variant}.jsonl"


def _model_file(folder: Path, manifest: Manifest, variant: str) -> str:
    found = {str(name): file for name, file in manifest.variants.items()}
    if variant not in found:
        raise ConfigError(
            f"model folder {folder} has no variant {variant!r}, it has {', '.join(sorted(found))}; "
            "choose one of them or export the model with it"
        )
    if golden_file(variant) not in manifest.files:
        raise ContractError(f"{folder / MANIFEST_FILE} does not list {golden_file(variant)}; export the model again")
    return found[variant]


def _read_golden(path: Path, data: bytes) -> tuple[Array, Array, Array]:
    """Token arrays, features and expected outputs of the golden cases, a row for each."""
    try:
        cases = [msgspec.json.decode(line, type=GoldenCase) for line in data.splitlines()]
        tokens = np.zeros((len(cases), HISTORY_LEN, len(CHANNELS)), np.int32)
        for row, case in zip(tokens, cases, strict=True):
            row[: len(case.tokens)] = case.tokens
        features = np.array([c.features for c in cases], np.float32)
        expected = np.array([[c.churn, *c.purchase, *c.value, *c.category] for c in cases])
    except (msgspec.DecodeError, ValueError) as error:
        raise ContractError(f"{path} cannot be read: {error}; export the model again") from None
    if not cases:
        raise ContractError(f"{path} holds no golden case; export the model again")
    return tokens, features, expected


def open_session(path: Path, graph: bytes, provider: str, threads: int) -> Any:
    """An onnxruntime session of these bytes of an ONNX file that runs where it was told to; ``path`` is for messages.

    Raises ConfigError or ContractError where it cannot; no other file is read, whatever the graph says.
    """
    _check_install(provider)
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    if provider == "cuda":
        onnxruntime.preload_dlls()
    wanted = _PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"provider is {provider!r}, this onnxruntime has {onnxruntime.get_available_providers()}; "
            f"install 'valuestream[{'gpu' if provider == 'cuda' else 'cpu'}]' or set --provider"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads of the pool that wait for work would take the cores of the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else onnxruntime guesses from the bytes, and reads a format of its own that is not looked at here.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    check_self_contained(path, graph)
    try:
        slow = _SLOW_ON_CPU if provider == "cpu" else []
        session = onnxruntime.InferenceSession(graph, options, providers=[wanted], disabled_optimizers=slow)
        session.disable_fallback()
    except Exception as error:
        raise ContractError(f"model {path} cannot be loaded: {_one_line(error)}; export it again") from None
    found = session.get_providers()[0]
    if found != wanted:
        raise ConfigError(f"provider is {found}, expected {wanted}; check the CUDA and cuDNN libraries")
    return session


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_install(provider: str) -> None:
    """Refuse an environment in which the two builds of onnxruntime have overwritten each other."""
    installed = [n for n in ("onnxruntime", "onnxruntime-gpu") if _is_installed(n)]
    if len(installed) == 2:
        raise ConfigError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "uninstall both, then install 'valuestream[cpu]' or 'valuestream[gpu]'"
        )
    if not installed:
        extra = "gpu" if provider == "cuda" else "cpu"
        raise ConfigError(f"onnxruntime is not installed; install 'valuestream[{extra}]'")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
