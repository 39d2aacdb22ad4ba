"""Export: writes the model folder that serves from a run folder. The same run gives the same bytes every time."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
import torch
from torch import nn

from model_export.export.model_card import model_card
from model_export.export.precision_loss import PrecisionLoss, outputs, precision_loss
from model_export.export.signing import read_sign_key, sign_folder
from model_export.export.variants import fused, in_fp16, quantised
from model_export.files import replaced
from model_export.network.event_bert import EventBert
from model_export.network.serving_graph import ORT_DOMAIN, Serving
from model_export.run_folder import Run, Sample, load_run, predict
from stream.arrays import Floats
from stream.contract.manifest import MANIFEST_FILE, MODEL_FILE, GoldenCase, Manifest, Variant
from stream.contract.tokens import CHANNELS, LENGTHS
from stream.errors import ContractError
from stream.score.scorer import RawScores, Scorer, golden_file

__all__ = ["VARIANTS", "export", "to_onnx"]

OPSET: Final = 17
CARD_FILE: Final = "README.md"
GOLDEN_CASES: Final = 16
VARIANTS: Final[tuple[Variant, ...]] = ("fp32", "int8", "fp16")
_INPUTS: Final = ["tokens", "features"]
_OUTPUTS: Final = ["churn", "purchase", "value"]


@dataclass(frozen=True, slots=True)
class _Graphs:
    """The model in each number format, and how large and how exact each of them is.

    ``sizes`` (bytes) and ``losses`` are keyed by how a graph was made: int8 is made in two ways, and one is kept.
    """

    by_variant: dict[Variant, bytes]
    sizes: dict[str, int]
    losses: dict[str, PrecisionLoss]


def export(
    run_folder: Path,
    out: Path,
    *,
    bands: tuple[float, float] | None = None,
    sufficient_events: int | None = None,
    variants: tuple[Variant, ...] = VARIANTS,
    sign_key: Path | None = None,
) -> Manifest:
    """Write the model folder ``out`` in one step, after the serving code has loaded each variant once.

    fp32 is always written. Without ``bands`` or ``sufficient_events``, those of the run's settings are used. If
    ``sign_key``, a PEM file, is given, the manifest is signed with it.
    """
    key = None if sign_key is None else read_sign_key(sign_key)
    run, network, sample, digest = load_run(run_folder)
    graphs = _graphs(network, sample, variants)
    files = {_model_file(name): graph for name, graph in graphs.by_variant.items()}
    files |= {golden_file(name): _golden(network, sample, graph, name) for name, graph in graphs.by_variant.items()}
    files[CARD_FILE] = model_card(run, digest, graphs.sizes, graphs.losses).encode()
    manifest = _manifest(run, digest, sample=sample, graphs=graphs, files=files)
    manifest = msgspec.structs.replace(
        manifest,
        bands=bands or manifest.bands,
        sufficient_events=manifest.sufficient_events if sufficient_events is None else sufficient_events,
    )
    files[MANIFEST_FILE] = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    with replaced(out, MANIFEST_FILE) as new:
        for file, data in files.items():
            (new / file).write_bytes(data)
        for name in graphs.by_variant:
            Scorer(new, variant=name)
        if key is not None:
            sign_folder(new, key)
    return manifest


def _manifest(run: Run, digest: str, *, sample: Sample, graphs: _Graphs, files: dict[str, bytes]) -> Manifest:
    """The manifest that lists ``files``, with bands and sufficient events of the run's settings."""
    settings = run.settings
    return Manifest(
        name=settings.name,
        version=digest[:12],
        labels=settings.labels,
        calibration=run.calibration,
        currency=run.currency,
        bands=(settings.export.medium, settings.export.high),
        sufficient_events=settings.export.sufficient_events,
        trained_on=run.trained_on,
        recipe=_recipe(run, digest, graphs.losses),
        metrics={f"{model}.{k}": v for model, metrics in run.metrics.items() for k, v in metrics.items()},
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        variants={name: _model_file(name) for name in graphs.by_variant},
        categories=run.categories,
        typical=tuple(np.median(sample.features, axis=0).astype(float).tolist()),
    )


def _model_file(variant: Variant) -> str:
    return MODEL_FILE if variant == "fp32" else f"model.{variant}.onnx"


def _graphs(network: EventBert, sample: Sample, variants: tuple[Variant, ...]) -> _Graphs:
    config = network.config
    graph = fused(to_onnx(network), config.heads, config.hidden)
    graphs: dict[Variant, bytes] = {"fp32": to_onnx(network, Serving(network))}
    sizes, losses = {"fp32": len(graphs["fp32"])}, {}
    if "fp16" in variants:
        graphs["fp16"] = in_fp16(graph)
        held_out = sample.tokens[1::2], sample.features[1::2]
        losses["fp16"] = precision_loss(graphs["fp16"], outputs(graph, *held_out), *held_out)
        sizes["fp16"] = len(graphs["fp16"])
    if "int8" in variants:
        int8 = quantised(graphs["fp32"], sample.tokens, sample.features)
        graphs["int8"] = int8.graph
        losses |= {f"int8 {kind}": loss for kind, loss in int8.losses.items()}
        sizes[f"int8 {int8.kind}"] = len(int8.graph)
    return _Graphs(graphs, sizes, losses)


def to_onnx(network: EventBert, written: nn.Module | None = None) -> bytes:
    """Write the network as one ONNX file with dynamic batch and length.

    ``written`` is a module that computes the same in another way; without it the network is exported as it is. The
    TorchScript exporter is used on purpose: with torch 2.15 its graph of this network runs a third faster in
    onnxruntime than the graph of the dynamo exporter, and it is made in 0.3 s instead of 11 s (measured).
    """
    tokens = torch.ones((2, LENGTHS[0], len(CHANNELS)), dtype=torch.int32)
    features = torch.zeros((2, network.mean.shape[0]))
    names = [*_OUTPUTS, *(["category"] if network.shape.categories else [])]
    axes: dict[str, dict[int, str]] = {name: {0: "batch"} for name in (*_INPUTS, *names)}
    axes["tokens"][1] = "length"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        path = Path(scratch) / MODEL_FILE
        torch.onnx.export(
            (written or network).eval(),
            (tokens, features),
            path,
            input_names=_INPUTS,
            output_names=names,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
            custom_opsets={ORT_DOMAIN: 1} if written else None,
        )
        return _checked(path.read_bytes())


def _checked(data: bytes) -> bytes:
    """Drop the notes on where the graph was made. Raises ContractError if the graph is not valid."""
    model = onnx.load_model_from_string(data)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ContractError(f"exported graph is not valid: {error}. This is a bug.") from error
    out: bytes = model.SerializeToString(deterministic=True)
    return out


def _golden(network: EventBert, sample: Sample, graph: bytes, variant: Variant) -> bytes:
    """Golden cases of rows that are spread evenly over the sample, which is sorted by history length.

    For fp32 the expected outputs are torch's, so a folder can serve only if it was exported right. For the other
    variants they are onnxruntime's.
    """
    rows = np.linspace(0, len(sample.tokens) - 1, min(GOLDEN_CASES, len(sample.tokens))).astype(int)
    tokens, features = sample.tokens[rows], sample.features[rows]
    raw = predict(network, tokens, features)
    if variant != "fp32":
        raw = _as_scores(outputs(graph, tokens, features), raw.purchase.shape[1])
    lines = []
    for i, row in enumerate(tokens):
        history = row[row[:, CHANNELS.index("type")] > 0].tolist()
        numbers = [x[i].astype(float).tolist() for x in (features, raw.churn, raw.purchase, raw.value, raw.category)]
        lines.append(msgspec.json.encode(GoldenCase(history, *numbers)) + b"\n")
    return b"".join(lines)


def _as_scores(columns: Floats, horizons: int) -> RawScores:
    churn, purchase, value, category = np.split(columns.astype(np.float32), [1, 1 + horizons, 3 + horizons], axis=1)
    return RawScores(churn[:, 0], purchase, value, category)


def _recipe(run: Run, digest: str, losses: dict[str, PrecisionLoss]) -> dict[str, str | int | float | bool]:
    """All settings in one flat table, without the folders of files, together with counts and what each format loses."""
    flat = dict(_flat("", msgspec.to_builtins(run.settings.portable)))
    counts = {f"counts.{key}": value for key, value in run.counts.items()}
    lost = {f"loss.{name}.{k}": float(f"{v:.3g}") for name, x in losses.items() for k, v in asdict(x).items()}
    return {**flat, **counts, **lost, "weights_sha256": digest}


def _flat(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, str | int | float | bool]]:
    """Values of nested settings by dotted name. Lists become text; keys that are not set are left out."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(f"{name}.", value)
        elif isinstance(value, list | tuple):
            yield name, ",".join(f"{x:g}" if isinstance(x, float) else str(x) for x in value)
        elif value is not None:
            yield name, value
