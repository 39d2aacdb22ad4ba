"""Workload: the network that the bench measures, and the users that are run through it."""

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

__all__ = ["Workload", "load_workload"]

#: Shoppers and days to simulate for a model folder: enough that each label has both classes.
_SIMULATED: Final = history.DataConfig(users=400, days=140, seed=3)


class Workload(msgspec.Struct, frozen=True):
    """A network and users to run through it. ``graphs`` holds its ONNX graphs by number format, fp32 and int8.

    The loss of AUC in int8 is measured by running ``sample`` through those two graphs.
    """

    name: str
    network: EventBert
    sample: Sample
    graphs: dict[str, bytes]


def load_workload(folder: Path, data: history.DataConfig | None = None) -> Workload:
    """Read the workload from a run folder or a model folder.

    A run folder gives its own network and sample. A model folder holds no torch weights, so it gives a network of its
    size with random weights, and simulated users unless ``data`` names others. The speed of a network does not depend
    on its weights. What int8 loses does depend on them, so it is measured on the graphs of the folder.
    """
    if (folder / RUN_FILE).is_file():
        if data is not None:
            raise ConfigError(f"{folder} is a run folder, which has users of its own; leave --data out, or export it")
        return _from_run(folder)
    manifest, _ = read_manifest(folder)
    sample = _test_users(manifest, data or _SIMULATED)
    graphs = {str(name): (folder / file).read_bytes() for name, file in manifest.variants.items() if name != "fp16"}
    return Workload(manifest.name, _network_of_size(manifest), sample, graphs)


def _from_run(folder: Path) -> Workload:
    run, network, sample, _ = load_run(folder)
    graph = to_onnx(network, Serving(network))
    graphs = {"fp32": graph, "int8": quantised(graph, sample.tokens, sample.features).graph}
    return Workload(run.settings.name, network, sample, graphs)


def _test_users(manifest: Manifest, data: history.DataConfig) -> Sample:
    """Users of the test split of ``data``, with the labels that the model predicts."""
    defaults = Settings()
    labels = msgspec.convert(msgspec.to_builtins(manifest.labels), type(defaults.labels))
    examples = dataset.build(history.load(data), labels, defaults.snapshots, defaults.seed).test
    if not len(examples):
        raise ConfigError(f"{data.name} has no user in its test split; give events of more days")
    return Sample(examples.tokens, examples.features, examples.churn, examples.purchase, examples.value)


def _network_of_size(manifest: Manifest) -> EventBert:
    """A network of the size that the manifest's recipe names, or of the default size if the recipe names none."""
    sizes = {k: manifest.recipe[f"model.{k}"] for k in ("hidden", "layers", "heads") if f"model.{k}" in manifest.recipe}
    shape = Shape(purchase_heads=len(manifest.labels.purchase_days), categories=len(manifest.categories))
    torch.manual_seed(0)
    return EventBert(msgspec.convert(sizes, ModelConfig), shape).eval()
