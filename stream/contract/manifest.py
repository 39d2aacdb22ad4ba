"""The model folder: say what it must hold, and read and check its manifest.

::

    model.onnx       inputs  tokens (batch, length, channels) int32, features (batch, n) float32
                     outputs churn (batch,), purchase (batch, horizons), value (batch, 2), all float32:
                             logits, and for value mu and log-sigma of the log-normal of a buyer's value;
                             optional: category (batch, K), logits of the classes ``Manifest.categories``
    model.*.onnx     the same model in the other number formats that ``Manifest.variants`` names
    manifest.json    this module's Manifest
    golden.jsonl     inputs with the outputs expected for them, replayed at start-up
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from stream.contract.columns import HISTORY_LEN
from stream.contract.files import read_listed, read_manifest_bytes
from stream.contract.tokens import CHANNEL_SIZES, FEATURES, FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ConfigError, ContractError

__all__ = [
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "Calibration",
    "Calibrator",
    "GoldenCase",
    "HeadCalibration",
    "Labels",
    "Manifest",
    "Variant",
    "read_manifest",
]

MODEL_FILE: Final = "model.onnx"
MANIFEST_FILE: Final = "manifest.json"
GOLDEN_FILE: Final = "golden.jsonl"

#: Number format of the weights in a model file.
Variant = Literal["fp32", "int8", "fp16"]
#: Percentiles 0 to 100 of a number over held-out users, in ascending order; empty if they were not measured.
Percentiles = tuple[float, ...]
#: A probability that has a logit, so neither 0 nor 1.
InnerProbability = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Labels(msgspec.Struct, frozen=True):
    """What the outputs mean, in days. A user is eligible if they were active in the last ``eligible_days``."""

    eligible_days: float
    churn_days: float
    purchase_days: tuple[float, ...]
    #: The horizon of lifetime value. It is one of ``purchase_days``: the purchase head of that horizon gives the
    #: probability that there is any value at all.
    value_days: float

    @property
    def value_head(self) -> int:
        """Index of the purchase head of ``value_days`` among all probability heads; churn is the first of them."""
        return 1 + self.purchase_days.index(self.value_days)


class Calibrator(msgspec.Struct, frozen=True):
    """Logit → probability, fitted on held-out users; :func:`stream.score.calibration.calibrated` applies it.

    ``platt``: sigmoid(slope × logit + intercept) (Platt 1999). ``isotonic``: centred isotonic regression (Oron &
    Flournoy 2017) through the knots ``logits`` → ``probabilities``. It is linear in log-odds between the knots, so that
    it keeps the ranking; beyond the outer knots log-odds go on with ``slope``.
    """

    method: Literal["platt", "isotonic"] = "platt"
    slope: float = 1.0
    intercept: float = 0.0
    logits: tuple[float, ...] = ()
    probabilities: tuple[InnerProbability, ...] = ()
    #: Held-out users behind one probability: those in its tenth. Their number sets the width of the Wilson interval.
    n: int = 0


class HeadCalibration(msgspec.Struct, frozen=True):
    """Calibrators of one head: for users with at least ``sufficient_events`` events, and for users with fewer."""

    enough: Calibrator
    few: Calibrator
    #: Percentiles of the calibrated probability.
    percentiles: Percentiles = ()


class Calibration(msgspec.Struct, frozen=True):
    """What turns the raw scores of a model into predictions."""

    churn: HeadCalibration
    purchase: tuple[HeadCalibration, ...]
    #: Expected value is multiplied by it, so that its total over held-out users is right.
    value_factor: float = 1.0
    #: Percentiles of the expected value, in the manifest's currency.
    value_percentiles: Percentiles = ()
    #: Scales the sigma of the log-normal, so that its central 80 % hold the value of 80 % of held-out buyers.
    value_sigma_factor: float = 1.0
    #: Moves the median of the log-normal, in sigmas, so that as many held-out buyers lie below it as above.
    value_shift: float = 0.0
    #: The logits of the categories are divided by it (temperature scaling, Guo et al. 2017).
    category_temperature: float = 1.0

    @property
    def heads(self) -> tuple[HeadCalibration, ...]:
        """The calibrations of all probability heads, churn first."""
        return (self.churn, *self.purchase)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """Everything that a model folder says about itself. New fields go last, with a default."""

    name: str
    version: str
    labels: Labels
    calibration: Calibration
    currency: str
    #: The churn probabilities at which the medium and the high band begin.
    bands: tuple[float, float]
    #: Users with fewer events get ``data_sufficiency: low``.
    sufficient_events: int
    #: First and last event time of the training data, ISO 8601.
    trained_on: tuple[str, str]
    #: What the model was made with: data set, seed, settings.
    recipe: dict[str, str | int | float | bool]
    metrics: dict[str, float]
    #: File name → SHA-256, for every other file of the folder.
    files: dict[str, str]
    features: tuple[str, ...] = FEATURES
    features_version: int = FEATURES_VERSION
    tokens_version: int = TOKENS_VERSION
    channel_sizes: dict[str, int] = msgspec.field(default_factory=CHANNEL_SIZES.copy)
    history_len: int = HISTORY_LEN
    #: Number format → model file in that format.
    variants: dict[Variant, str] = msgspec.field(default_factory=lambda: {"fp32": MODEL_FILE})
    #: The classes of the output ``category``, in its order; empty if the model has no such output.
    categories: tuple[str, ...] = ()
    #: Typical value of each feature, in the order of ``features``. Explanations put it in place of the user's own.
    typical: tuple[float, ...] = ()


class GoldenCase(msgspec.Struct, frozen=True):
    """One row of inputs (tokens without padding), and the outputs that the trained model gave for it."""

    tokens: list[list[int]]
    features: list[float]
    churn: float
    purchase: list[float]
    value: list[float]
    category: list[float] = []


class _Inputs(msgspec.Struct, frozen=True):
    """The inputs that a model expects. They are read first: the rest of another version may have another shape."""

    features_version: int = FEATURES_VERSION
    tokens_version: int = TOKENS_VERSION
    features: tuple[str, ...] = FEATURES
    channel_sizes: dict[str, int] = msgspec.field(default_factory=CHANNEL_SIZES.copy)
    history_len: int = HISTORY_LEN


def read_manifest(
    folder: Path, verify: Callable[[Path, bytes], None] = lambda _path, _data: None
) -> tuple[Manifest, str]:
    """Read and check a model folder. Returns the manifest and its SHA-256, which identifies the whole model.

    ``verify`` is called first with the path and bytes of the manifest, and raises if they cannot be trusted. Raises
    ConfigError if a file is missing, and ContractError if a file was altered or has another version.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ConfigError(
            f"model folder {folder} has no {MANIFEST_FILE}; "
            "give --model-dir a folder written by `valuestream-model export`"
        )
    data = read_manifest_bytes(path)
    verify(path, data)
    try:
        _check_inputs(path, msgspec.json.decode(data, type=_Inputs))
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{path} cannot be read: {error}; export the model again") from None
    _check_parts(path, manifest)
    for name in (GOLDEN_FILE, *manifest.variants.values()):
        if name not in manifest.files:
            raise ContractError(f"{path} does not list {name}; export the model again")
    for name, expected in manifest.files.items():
        read_listed(path, name, expected)
    return manifest, hashlib.sha256(data).hexdigest()


def _check_inputs(path: Path, inputs: _Inputs) -> None:
    ours = _Inputs()
    for name in _Inputs.__struct_fields__:
        found, expected = getattr(inputs, name), getattr(ours, name)
        if found != expected:
            shown = (found, expected) if isinstance(expected, int) else ("another set", "the contract's")
            raise ContractError(
                f"{path}: {name} is {shown[0]}, this build serves {shown[1]}; "
                "train and export the model again with this release"
            )


def _check_parts(path: Path, manifest: Manifest) -> None:
    labels, calibration = manifest.labels, manifest.calibration
    if labels.value_days not in labels.purchase_days:
        raise ContractError(f"{path}: labels.value_days is not one of purchase_days; export the model again")
    if len(calibration.purchase) != len(labels.purchase_days):
        raise ContractError(f"{path}: calibration.purchase does not match purchase_days; export the model again")
    for head in (calibration.churn, *calibration.purchase):
        for calibrator in (head.enough, head.few):
            _check_calibrator(path, calibrator)
    medium, high = manifest.bands
    if not 0 <= medium < high <= 1:
        raise ContractError(
            f"{path}: bands are {manifest.bands}, expected 0 ≤ medium < high ≤ 1; export the model again"
        )
    if "fp32" not in manifest.variants:
        raise ContractError(
            f"{path}: variants are {sorted(manifest.variants)}, expected fp32 among them; export the model again"
        )


def _check_calibrator(path: Path, calibrator: Calibrator) -> None:
    knots = (calibrator.logits, calibrator.probabilities)
    ascending = all(low < high for knot in knots for low, high in pairwise(knot))
    if len(knots[0]) != len(knots[1]) or bool(knots[0]) != (calibrator.method == "isotonic") or not ascending:
        raise ContractError(
            f"{path}: calibrator {calibrator.method} has knots {len(knots[0])} × {len(knots[1])}, expected pairs in"
            " strictly ascending order for isotonic and none for platt; export the model again"
        )
    if calibrator.slope < 0:
        raise ContractError(
            f"{path}: a calibrator's slope is {calibrator.slope}, expected at least 0; export the model again"
        )
