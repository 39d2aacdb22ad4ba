"""The run folder: what training leaves behind, and what export and verify read. No pickle.

::

    run.json               settings, labels, calibration, metrics
    weights.safetensors    the network
    sample.safetensors     some rows of the test window and their labels, for golden cases and parity
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

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
from stream.contract.manifest import Calibration
from stream.contract.tokens import CHANNELS, FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ConfigError, ContractError
from stream.score.encode import padded_length
from stream.score.scorer import RawScores

__all__ = ["Run", "Sample", "by_length", "load_run", "predict", "save_run"]

Array = npt.NDArray[Any]
RUN_FILE: Final = "run.json"
WEIGHTS_FILE: Final = "weights.safetensors"
SAMPLE_FILE: Final = "sample.safetensors"
_TYPE: Final = CHANNELS.index("type")


class Run(msgspec.Struct, frozen=True):
    """One training: what went in, and what came out beside the weights."""

    settings: Settings
    shape: Shape
    calibration: Calibration
    #: Names of the next-category classes, in order.
    categories: tuple[str, ...]
    currency: str
    #: First and last event time, ISO 8601.
    trained_on: tuple[str, str]
    #: Examples by window, what was left out, epochs run.
    counts: dict[str, int]
    #: model or baseline → metrics on the test window.
    metrics: dict[str, dict[str, float]]
    features_version: int = FEATURES_VERSION
    tokens_version: int = TOKENS_VERSION


class Sample(msgspec.Struct, frozen=True):
    """Rows of the test window as the model takes them, and what came true, as in ``Examples``."""

    tokens: Array
    features: Array
    churn: Array
    purchase: Array
    value: Array


def save_run(folder: Path, run: Run, network: EventBert, sample: Sample) -> None:
    """Write a run folder in one step; one that is there is replaced."""
    with replaced(folder, RUN_FILE) as new:
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_weights(weights, new / WEIGHTS_FILE)
        save_file(
            {name: np.ascontiguousarray(x) for name, x in msgspec.structs.asdict(sample).items()}, new / SAMPLE_FILE
        )
        (new / RUN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")


def load_run(folder: Path) -> tuple[Run, EventBert, Sample, str]:
    """The run, its network in evaluation mode, its sample, and the SHA-256 of the weights."""
    for name in (RUN_FILE, WEIGHTS_FILE, SAMPLE_FILE):
        if not (folder / name).is_file():
            raise ConfigError(f"run folder {folder} has no {name}; give the --out of `valuestream-model train`")
    try:
        run = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=Run)
    except msgspec.DecodeError as error:
        raise ContractError(f"{folder / RUN_FILE} cannot be read: {error}; train again") from None
    found, serves = (run.features_version, run.tokens_version), (FEATURES_VERSION, TOKENS_VERSION)
    if found != serves:
        raise ContractError(
            f"{folder / RUN_FILE}: features and tokens are {found}, this build has {serves}; train again"
        )
    network = EventBert(run.settings.model, run.shape)
    network.load_state_dict(load_weights(folder / WEIGHTS_FILE))
    arrays = load_file(folder / SAMPLE_FILE)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return run, network.eval(), Sample(**arrays), digest


@torch.no_grad()
def predict(network: EventBert, tokens: Array, features: Array) -> RawScores:
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


def by_length(tokens: Array, size: int = 1_024) -> Iterator[tuple[Array, npt.NDArray[np.int32]]]:
    """Rows in batches of like history length, and their tokens without the padding that none of them needs."""
    lengths = (tokens[:, :, _TYPE] > 0).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        yield rows, tokens[rows, : padded_length(int(lengths[rows].max()))].astype(np.int32)
