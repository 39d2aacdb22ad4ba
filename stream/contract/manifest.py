"""The model folder: what it must hold, and how its manifest is read and checked.

::

    model.onnx       inputs  tokens (batch, length, channels) int32, features (batch, n) float32
                     outputs churn (batch,), purchase (batch, horizons), value (batch, 2), all float32:
                             logits, and the log-normal's mu and log-sigma of a buyer's value
    manifest.json    this module's Manifest
    golden.jsonl     inputs and expected outputs, replayed at start-up
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

import msgspec

from stream.contract.columns import HISTORY_LEN
from stream.contract.tokens import CHANNEL_SIZES, FEATURES, FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ConfigError, ContractError

__all__ = [
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "Calibration",
    "GoldenCase",
    "Labels",
    "Manifest",
    "Platt",
    "read_manifest",
]

MODEL_FILE: Final = "model.onnx"
MANIFEST_FILE: Final = "manifest.json"
GOLDEN_FILE: Final = "golden.jsonl"
_FILE_NAME: Final = re.compile(r"\w[\w.-]*")


class Platt(msgspec.Struct, frozen=True):
    """Platt scaling: probability = sigmoid(slope × logit + intercept) (Platt 1999), fitted on a held-out window."""

    slope: float = 1.0
    intercept: float = 0.0


class Labels(msgspec.Struct, frozen=True):
    """What the outputs mean, in days. A user is eligible who was active in the last ``eligible_days``."""

    eligible_days: float
    churn_days: float
    purchase_days: tuple[float, ...]
    #: The horizon of lifetime value; one of ``purchase_days``, whose probability is that of any value at all.
    value_days: float


class Calibration(msgspec.Struct, frozen=True):
    """What turns raw outputs into numbers worth acting on; ``value_factor`` removes the total bias of value."""

    churn: Platt
    purchase: tuple[Platt, ...]
    value_factor: float = 1.0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """All that a model folder says of itself. New fields go last, with a default."""

    name: str
    version: str
    labels: Labels
    calibration: Calibration
    currency: str
    #: Churn probability at which the medium and the high band begin.
    bands: tuple[float, float]
    #: Users with fewer events get ``data_sufficiency: low``.
    sufficient_events: int
    #: First and last event time of the training data, ISO 8601.
    trained_on: tuple[str, str]
    #: What made it: data set, seed, settings.
    recipe: dict[str, str | int | float | bool]
    metrics: dict[str, float]
    #: file name → SHA-256 of every other file of the folder.
    files: dict[str, str]
    features: tuple[str, ...] = FEATURES
    features_version: int = FEATURES_VERSION
    tokens_version: int = TOKENS_VERSION
    channel_sizes: dict[str, int] = msgspec.field(default_factory=CHANNEL_SIZES.copy)
    history_len: int = HISTORY_LEN


class GoldenCase(msgspec.Struct, frozen=True):
    """One row of inputs (tokens without padding) and the outputs that the trained model gave."""

    tokens: list[list[int]]
    features: list[float]
    churn: float
    purchase: list[float]
    value: list[float]


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Read and check a model folder; returns the manifest and its SHA-256, which names the model as a whole.

    Raises ConfigError where a file is missing, ContractError where one was altered or is of another version.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ConfigError(
            f"model folder {folder} has no {MANIFEST_FILE}; "
            "give --model-dir a folder written by `valuestream-model export`"
        )
    data = path.read_bytes()
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{path} cannot be read: {error}; export the model again") from None
    _check_versions(path, manifest)
    for name in (MODEL_FILE, GOLDEN_FILE):
        if name not in manifest.files:
            raise ContractError(f"{path} does not list {name}; export the model again")
    for name, expected in manifest.files.items():
        _check_file(folder, name, expected)
    return manifest, hashlib.sha256(data).hexdigest()


def _check_versions(path: Path, manifest: Manifest) -> None:
    serves = {
        "features_version": FEATURES_VERSION,
        "tokens_version": TOKENS_VERSION,
        "features": FEATURES,
        "channel_sizes": CHANNEL_SIZES,
        "history_len": HISTORY_LEN,
    }
    for name, ours in serves.items():
        found = getattr(manifest, name)
        if found != ours:
            shown = (found, ours) if isinstance(ours, int) else ("another set", "the contract's")
            raise ContractError(
                f"{path}: {name} is {shown[0]}, this build serves {shown[1]}; "
                "train and export the model again with this release"
            )
    if manifest.labels.value_days not in manifest.labels.purchase_days:
        raise ContractError(f"{path}: labels.value_days is not one of purchase_days; export the model again")
    if len(manifest.calibration.purchase) != len(manifest.labels.purchase_days):
        raise ContractError(f"{path}: calibration.purchase does not match purchase_days; export the model again")
    medium, high = manifest.bands
    if not 0 <= medium < high <= 1:
        raise ContractError(
            f"{path}: bands are {manifest.bands}, expected 0 ≤ medium < high ≤ 1; export the model again"
        )


def _check_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if not _FILE_NAME.fullmatch(name):
        raise ContractError(f"{folder / MANIFEST_FILE} lists {name!r}, expected names of files inside the folder")
    if not path.is_file():
        raise ConfigError(f"model file {path} is missing; copy the whole folder again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ContractError(
            f"model file {path} was altered: SHA-256 is {found[:12]}…, the manifest says {expected[:12]}…; "
            "copy the folder again or export the model anew"
        )
