"""Run folder: what training leaves behind, and what export and verify read. It holds no pickle.

::

    run.json               settings, labels, calibration, metrics
    weights.safetensors    the network
    sample.safetensors     some rows of the test split and their labels, for golden cases and parity
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_weights
from safetensors.torch import save_file as save_weights

from model_export.files import replaced
from model_export.network.event_bert import EventBert, Shape
from model_export.settings import Settings
from stream.arrays import FeatureRows, Floats, Rows, TokenRows
from stream.contract.manifest import Calibration
from stream.contract.tokens import CHANNELS, FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ConfigError, ContractError
from stream.score.encode import padded_length
from stream.score.scorer import RawScores

__all__ = ["Run", "Sample", "Tokens", "by_length", "load_run", "predict", "save_run"]

#: Tokens of histories ``(n, positions, channels)``: uint16 as files keep them, or int32 as the model takes them.
Tokens: TypeAlias = npt.NDArray[np.uint16] | TokenRows
RUN_FILE: Final = "run.json"
WEIGHTS_FILE: Final = "weights.safetensors"
SAMPLE_FILE: Final = "sample.safetensors"
_TYPE: Final = CHANNELS.index("type")


class Run(msgspec.Struct, frozen=True):
    """One training: its inputs, and its results beside the weights."""

    settings: Settings
    shape: Shape
    calibration: Calibration
    #: Names of the next-category classes, in order.
    categories: tuple[str, ...]
    currency: str
    #: First and last event time, ISO 8601.
    trained_on: tuple[str, str]
    #: Examples by split, examples that were left out by reason, and epochs.
    counts: dict[str, int]
    #: model or baseline → metrics on the test split.
    metrics: dict[str, dict[str, float]]
    features_version: int = FEATURES_VERSION
    tokens_version: int = TOKENS_VERSION


class Sample(msgspec.Struct, frozen=True):
    """Rows of the test split with the inputs of the model and their labels, as in ``Examples``."""

    tokens: Tokens
    features: FeatureRows
    churn: npt.NDArray[np.float32]
    purchase: npt.NDArray[np.float32]
    value: Floats


def save_run(folder: Path, run: Run, network: EventBert, sample: Sample) -> None:
    """Write a run folder in one step; an existing run folder is replaced."""
    with replaced(folder, RUN_FILE) as new:
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_weights(weights, new / WEIGHTS_FILE)
        columns = {name: np.ascontiguousarray(x) for name, x in msgspec.structs.asdict(sample).items()}
        save_file(columns, new / SAMPLE_FILE)
        (new / RUN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")


def load_run(folder: Path) -> tuple[Run, EventBert, Sample, str]:
    """Read the run, its network in evaluation mode, its sample, and the SHA-256 of the weights.

    Raises ConfigError if a file is missing, and ContractError if another build wrote the folder.
    """
    for name in (RUN_FILE, WEIGHTS_FILE, SAMPLE_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"run folder {folder} has no {name}; give the --out of `valuestream-model train`")
    try:
        run = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=Run)
    except msgspec.DecodeError as error:
        raise ContractError(f"{folder / RUN_FILE} cannot be read: {error}; train again") from None
    found, expected = (run.features_version, run.tokens_version), (FEATURES_VERSION, TOKENS_VERSION)
    if found != expected:
        raise ContractError(
            f"{folder / RUN_FILE}: features and tokens are {found}, this build has {expected}; train again"
        )
    network = EventBert(run.settings.model, run.shape)
    network.load_state_dict(load_weights(folder / WEIGHTS_FILE))
    arrays = load_file(folder / SAMPLE_FILE)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return run, network.eval(), Sample(**arrays), digest


@torch.no_grad()
def predict(network: EventBert, tokens: Tokens, features: FeatureRows) -> RawScores:
    """Outputs of the network in evaluation mode, in the order of the rows."""
    network.eval()
    shape = network.shape
    churn, purchase = np.empty(len(tokens), np.float32), np.empty((len(tokens), shape.purchase_heads), np.float32)
    value, category = np.empty((len(tokens), 2), np.float32), np.empty((len(tokens), shape.categories), np.float32)
    for rows, batch in by_length(tokens):
        outputs = network(torch.from_numpy(batch), torch.from_numpy(features[rows]))
        for target, output in zip((churn, purchase, value, category), outputs, strict=False):
            target[rows] = output.numpy()
    return RawScores(churn, purchase, value, category)


def by_length(tokens: Tokens, size: int = 1_024) -> Iterator[tuple[Rows, TokenRows]]:
    """Yield batches of rows with similar history lengths, and their tokens without padding that no row needs."""
    lengths = (tokens[:, :, _TYPE] > 0).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        yield rows, tokens[rows, : padded_length(int(lengths[rows].max()))].astype(np.int32)
