"""Bench material: the network that is measured, and the users that are run through it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import torch

from model_export.data import dataset
from model_export.data import event_log as history
from model_export.export.export import to_onnx
from model_export.export.variants import quantised
from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.network.serving_graph import Serving
from model_export.run_folder import RUN_FILE, Sample, load_run
from model_export.settings import Settings
from stream.contract.manifest import Manifest, read_manifest
from stream.errors import ConfigError

__all__ = ["Material", "material"]

#: Shoppers and days simulated for a model folder: enough for two classes of each label.
_SIMULATED: Final = history.DataConfig(users=400, days=140, seed=3)


class Material(msgspec.Struct, frozen=True):
    """A network, users to run through it, and its graphs in fp32 and int8 that ``sample`` tells apart by AUC."""

    name: str
    network: EventBert
    sample: Sample
    graphs: dict[str, bytes]


def material(folder: Path, data: history.DataConfig | None = None) -> Material:
    """Of a run folder: its own network and sample. Of a model folder: random weights of its size, simulated users.

    How fast a network is does not depend on its weights; what int8 loses does, and is measured on the folder's graphs.
    """
    if (folder / RUN_FILE).is_file():
        if data is not None:
            raise ConfigError(f"{folder} is a run folder, which has users of its own; leave --data out, or export it")
        run, network, sample, _ = load_run(folder)
        graph = to_onnx(network, Serving(network))
        graphs = {"fp32": graph, "int8": quantised(graph, sample.tokens, sample.features).graph}
        return Material(run.settings.name, network, sample, graphs)
    manifest, _ = read_manifest(folder)
    sample = _users(manifest, data or _SIMULATED)
    variants = {str(name): (folder / file).read_bytes() for name, file in manifest.variants.items()}
    return Material(manifest.name, _alike(manifest), sample, {n: g for n, g in variants.items() if n != "fp16"})


def _users(manifest: Manifest, data: history.DataConfig) -> Sample:
    """Users of the test window of ``data``, labelled as the model's are."""
    defaults = Settings()
    labels = msgspec.convert(msgspec.to_builtins(manifest.labels), type(defaults.labels))
    examples = dataset.build(history.load(data), labels, defaults.snapshots, defaults.seed).test
    if not len(examples):
        raise ConfigError(f"{data.name} has no user in its test window; give events of more days")
    return Sample(examples.tokens, examples.features, examples.churn, examples.purchase, examples.value)


def _alike(manifest: Manifest) -> EventBert:
    """A network of the size that the manifest's recipe tells; the default where it does not."""
    sizes = {k: manifest.recipe[f"model.{k}"] for k in ("hidden", "layers", "heads") if f"model.{k}" in manifest.recipe}
    shape = Shape(purchase_heads=len(manifest.labels.purchase_days), categories=len(manifest.categories))
    torch.manual_seed(0)
    return EventBert(msgspec.convert(sizes, ModelConfig), shape).eval()
