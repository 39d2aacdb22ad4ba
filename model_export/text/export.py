"""Export: turns a sentiment run into the folder that ``stream.score.sentiment`` serves; always the same bytes."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnx
import torch

from model_export.files import replaced
from model_export.text.sentiment import LabelledText, SentimentRun, load_sentiment_run, text_metrics
from model_export.text.tune import TextClassifier, logits
from stream.errors import ContractError
from stream.score.sentiment import (
    GOLDEN_FILE,
    INT8_FILE,
    LABELS,
    LENGTH_STEP,
    MANIFEST_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    GoldenText,
    Sentiment,
    SentimentManifest,
    Variant,
    softmax,
    token_ids,
)

__all__ = ["GOLDEN_TEXTS", "export_sentiment"]

OPSET: Final = 17
#: Most texts in one run of fp32. More than one is faster on a GPU, and hardly on a CPU (9 to 12 ms for 30 tokens).
BATCH_TEXTS: Final = 32
#: Largest difference from a golden probability. For fp32 it is a hundred times the difference that was measured. For
#: int8 it is somewhat more than int8 costs (measured on MiniLM: 0.09 at most, 0.013 on average).
TOLERANCE: Final = 1e-4
INT8_TOLERANCE: Final = 0.15
#: These texts are made up. Training texts are personal, and a model folder is copied around.
GOLDEN_TEXTS: Final = (
    "Great quality, fits perfectly, will buy again!",
    "Terrible. It broke after two days and nobody answered my emails.",
    "It arrived on Tuesday in a brown box.",
    "Not bad, but not worth the price either.",
    "I love the colour; the zip, however, is useless.",
    "ok",
    "Worst service ever!!! 😡",
    "Thanks for the quick delivery 😊",
    "Does it come in size 42?",
    "",
    "The sofa is comfortable and the delivery team was friendly, but one leg was missing, the replacement took three "
    "weeks, and in the end I had to drive to the shop myself, which is not what I expect at this price.",
)


def export_sentiment(run_folder: Path, out: Path, *, int8_loss_max: float = 0.01) -> SentimentManifest:
    """Write the model folder ``out`` in one step, after the serving code has loaded it.

    int8 serves on CPUs if it costs at most ``int8_loss_max`` of macro-F1 on the sample of the run.
    """
    run, classifier, sample = load_sentiment_run(run_folder)
    with replaced(out, MANIFEST_FILE) as new:
        (new / MODEL_FILE).write_bytes(_to_onnx(classifier))
        (new / TOKENIZER_FILE).write_text(classifier.encoder.tokenizer.to_str(), encoding="utf-8")
        (new / GOLDEN_FILE).write_bytes(_golden_file(classifier, run.temperature))
        fp32 = Variant(MODEL_FILE, BATCH_TEXTS, TOLERANCE)
        manifest = _write_manifest(new, run, {"cpu": fp32, "cuda": fp32}, {})
        metrics = {"fp32": _measured(new, sample)}
        _quantise(new / MODEL_FILE, new / INT8_FILE)
        int8 = Variant(INT8_FILE, 1, INT8_TOLERANCE)
        try:
            _write_manifest(new, run, {"cpu": int8}, {})
            metrics["int8"] = _measured(new, sample)
            keeps = metrics["fp32"]["macro_f1"] - metrics["int8"]["macro_f1"] <= int8_loss_max
        except ContractError:  # the probabilities of the golden texts were too far off
            keeps = False
        if not keeps:
            (new / INT8_FILE).unlink()
        manifest = _write_manifest(new, run, {"cpu": int8 if keeps else fp32, "cuda": fp32}, metrics)
        Sentiment(new)
    return manifest


def _write_manifest(
    folder: Path, run: SentimentRun, variants: dict[str, Variant], sample: dict[str, dict[str, float]]
) -> SentimentManifest:
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST_FILE)
    metrics = {f"test.{name}": value for name, value in run.metrics.items()}
    metrics |= {
        f"sample.{variant}.{name}": value for variant, values in sample.items() for name, value in values.items()
    }
    trained_on: dict[str, str | int | float | bool] = {
        "source": run.source, "split_by": run.split_by, "from": run.trained_on[0], "to": run.trained_on[1],
        "checkpoint": run.checkpoint, **{f"counts.{k}": v for k, v in run.counts.items()},
        **{f"fit.{k}": v for k, v in msgspec.to_builtins(run.fit).items()},
    }  # fmt: skip
    manifest = SentimentManifest(
        name=run.name,
        version=run.version,
        labels=LABELS,
        max_length=run.fit.max_length,
        temperature=run.temperature,
        variants=variants,
        trained_on=trained_on,
        metrics=metrics,
        files={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    )
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return manifest


def _measured(folder: Path, sample: list[LabelledText]) -> dict[str, float]:
    probabilities = Sentiment(folder).probabilities([case.text for case in sample])
    return text_metrics(probabilities.astype(np.float64), np.array([case.label for case in sample]))


def _golden_file(classifier: TextClassifier, temperature: float) -> bytes:
    ids = token_ids(classifier.encoder.tokenizer, GOLDEN_TEXTS)
    probabilities = softmax(logits(classifier, ids).astype(np.float64) / temperature)
    # A text without a word is neutral, whatever the network makes of it.
    probabilities[[not text for text in GOLDEN_TEXTS]] = (0.0, 1.0, 0.0)
    cases = [
        GoldenText(text, (row[0], row[1], row[2]))
        for text, row in zip(GOLDEN_TEXTS, probabilities.tolist(), strict=True)
    ]
    return b"".join(msgspec.json.encode(case) + b"\n" for case in cases)


def _to_onnx(classifier: TextClassifier) -> bytes:
    """The network as one ONNX file with dynamic batch and length, by the exporter that ``model_export.export`` uses."""
    # Only plain attention can be traced for any length.
    classifier.encoder.bert.set_attn_implementation("eager")  # type: ignore[operator]
    ids, mask = (torch.ones((2, LENGTH_STEP), dtype=torch.int32) for _ in range(2))
    both = {0: "batch", 1: "length"}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")
        path = Path(scratch) / MODEL_FILE
        torch.onnx.export(
            classifier.eval(),
            (ids, mask),
            path,
            input_names=["ids", "mask"],
            output_names=["logits"],
            dynamic_axes={"ids": both, "mask": both, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return _clean(onnx.load_model(path))


def _quantise(source: Path, target: Path) -> None:
    """Quantise weights to int8 by channel. Only seven bits are used: eight overflow sums on x86 CPUs without VNNI."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    target.write_bytes(_clean(onnx.load_model(target)))


def _clean(model: onnx.ModelProto) -> bytes:
    """The graph, without notes on where it was made. Raises ContractError if it is not valid."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ContractError(f"exported graph is not valid: {error}. This is a bug.") from error
    out: bytes = model.SerializeToString(deterministic=True)
    return out
