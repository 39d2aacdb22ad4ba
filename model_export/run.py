"""The run folder: what training leaves behind, and what export and verify read. No pickle.

::

    run.json               settings, labels, calibration, metrics
    weights.safetensors    the network
    sample.safetensors     some rows of the test window, for golden cases and parity
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_weights
from safetensors.torch import save_file as save_weights

from model_export.dataset import Plan
from model_export.history import DataConfig
from model_export.model import EventBert, ModelConfig
from stream.contract.manifest import Calibration
from stream.contract.tokens import FEATURES_VERSION, TOKENS_VERSION
from stream.errors import ConfigError, ContractError
from stream.score import RawScores

__all__ = ["FitConfig", "Run", "Sample", "load_run", "predict", "replaced", "save_run"]

Array = npt.NDArray[Any]
RUN_FILE: Final = "run.json"
WEIGHTS_FILE: Final = "weights.safetensors"
SAMPLE_FILE: Final = "sample.safetensors"


class FitConfig(msgspec.Struct, frozen=True):
    """How the network is trained."""

    seed: int = 7
    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    #: Weight of the value's loss beside the cross-entropies: it overfits first, as few buy and spend varies widely.
    value_weight: float = 0.1
    #: Share of all steps in which the learning rate rises to its full size.
    warmup: float = 0.1
    clip_norm: float = 1.0
    #: Epochs without a better validation loss after which training stops.
    patience: int = 2
    #: Fixed, as sums depend on how they are divided: the same number gives the same weights.
    threads: int = 1
    #: Fewest examples of each class that a head may be trained, calibrated or measured on.
    class_min: int = 50


class Run(msgspec.Struct, frozen=True):
    """One training: what went in, and what came out beside the weights."""

    name: str
    data: DataConfig
    plan: Plan
    model: ModelConfig
    fit: FitConfig
    calibration: Calibration
    #: First and last event time, ISO 8601.
    trained_on: tuple[str, str]
    #: Examples by window, what was left out, epochs run.
    counts: dict[str, int]
    #: model or baseline → metrics on the snapshots of the test window.
    metrics: dict[str, dict[str, float]]
    features_version: int = FEATURES_VERSION
    tokens_version: int = TOKENS_VERSION


class Sample(msgspec.Struct, frozen=True):
    """Input rows as the model takes them."""

    tokens: Array
    features: Array


def save_run(folder: Path, run: Run, network: EventBert, sample: Sample) -> None:
    """Write a run folder in one step; one that is there is replaced."""
    with replaced(folder, RUN_FILE) as new:
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_weights(weights, new / WEIGHTS_FILE)
        save_file({"tokens": sample.tokens, "features": sample.features}, new / SAMPLE_FILE)
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
    network = EventBert(run.model)
    network.load_state_dict(load_weights(folder / WEIGHTS_FILE))
    arrays = load_file(folder / SAMPLE_FILE)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return run, network.eval(), Sample(arrays["tokens"], arrays["features"]), digest


@torch.no_grad()
def predict(network: EventBert, tokens: Array, features: Array, batch: int = 1024) -> RawScores:
    """Outputs of the network in evaluation mode, in the order of the rows."""
    network.eval()
    parts = []
    for begin in range(0, len(tokens), batch):
        part = slice(begin, begin + batch)
        inputs = torch.from_numpy(tokens[part].astype(np.int32)), torch.from_numpy(features[part])
        parts.append([out.numpy() for out in network(*inputs)])
    churn, purchase, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return RawScores(churn, purchase, value)


@contextmanager
def replaced(folder: Path, marker: str) -> Iterator[Path]:
    """A new folder to write, put in the place of ``folder`` when all went well.

    Only a folder that holds ``marker``, or is empty, is replaced: it was written by us.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} exists and holds no {marker}, so it is not replaced; give another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    old = new.with_name(new.name + "-old")
    try:
        new.chmod(0o755)
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
