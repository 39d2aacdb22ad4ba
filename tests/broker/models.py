"""Models: writes model folders by hand. Scores depend on sentiments, and sentiments can be made slow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from stream.contract import manifest as scoring
from stream.contract.tokens import CHANNELS, FEATURES
from stream.score import sentiment
from stream.score.sentiment import (
    LABELS,
    TOKENIZER_FILE,
    GoldenText,
    SentimentManifest,
    Variant,
    softmax,
)

__all__ = ["WORDS", "write_scoring_model", "write_sentiment_model"]

#: Word → logits of ``LABELS`` that the word adds.
WORDS: Final = {
    "[UNK]": (0.0, 0.0, 0.0),
    "good": (0.0, 0.0, 1.0),
    "great": (0.0, 0.0, 2.0),
    "it": (0.0, 0.1, 0.0),
    "bad": (1.5, 0.0, 0.0),
    "tore": (0.7, 0.3, 0.0),
}
_GOLDEN: Final = ("good", "it tore", "great great bad it")


def write_scoring_model(folder: Path) -> Path:
    """Write a model folder. Every output is a weighted sum of the features, and sentiments weigh most."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    sizes = {"churn": 1, "purchase": 2, "value": 2}
    weights = {head: rng.normal(0, 0.02, (len(FEATURES), n)).astype(np.float32) for head, n in sizes.items()}
    for head_weights in weights.values():
        head_weights[[FEATURES.index(name) for name in ("reviews", "sentiment_mean", "sentiment_last")]] = 0.9
    nodes = [helper.make_node("MatMul", ["features", f"w_{head}"], [f"{head}_rows"]) for head in weights]
    nodes.append(helper.make_node("Squeeze", ["churn_rows", "columns"], ["churn"]))
    nodes += [helper.make_node("Identity", [f"{head}_rows"], [head]) for head in ("purchase", "value")]
    inputs = [_tensor("tokens", TensorProto.INT32, "batch", "length", len(CHANNELS))]
    inputs.append(_tensor("features", TensorProto.FLOAT, "batch", len(FEATURES)))
    outputs = [_tensor("churn", TensorProto.FLOAT, "batch")]
    outputs += [_tensor(head, TensorProto.FLOAT, "batch", 2) for head in ("purchase", "value")]
    constants = {f"w_{head}": head_weights for head, head_weights in weights.items()} | {
        "columns": np.array([1], np.int64)
    }
    _save(folder / scoring.MODEL_FILE, nodes, inputs, outputs, constants)
    features = np.linspace(0, 1, len(FEATURES), dtype=np.float32)
    churn, purchase, value = ((features @ weights[head]).tolist() for head in sizes)
    case = scoring.GoldenCase([[1] * len(CHANNELS)], features.tolist(), churn[0], purchase, value)
    (folder / scoring.GOLDEN_FILE).write_bytes(msgspec.json.encode(case))
    head = scoring.HeadCalibration(scoring.Calibrator(), scoring.Calibrator())
    made = scoring.Manifest(
        name="sums",
        version="1",
        labels=scoring.Labels(eligible_days=45, churn_days=14, purchase_days=(7, 30), value_days=30),
        calibration=scoring.Calibration(churn=head, purchase=(head, head)),
        currency="USD",
        bands=(0.4, 0.7),
        sufficient_events=5,
        trained_on=("2024-01-01T00:00:00Z", "2024-06-01T00:00:00Z"),
        recipe={},
        metrics={},
        files=_hashes(folder),
        typical=(0.0,) * len(FEATURES),
    )
    (folder / scoring.MANIFEST_FILE).write_bytes(msgspec.json.encode(made))
    return folder


def write_sentiment_model(folder: Path, loops: int) -> Path:
    """Write a sentiment folder. A text is the sum of its words; each inference runs ``loops`` (even) idle loops."""
    folder.mkdir(parents=True)
    _save_words(folder / sentiment.MODEL_FILE, loops)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_str())
    cases = [GoldenText(text, _probabilities(text)) for text in _GOLDEN]
    (folder / sentiment.GOLDEN_FILE).write_bytes(b"\n".join(map(msgspec.json.encode, cases)))
    made = SentimentManifest(
        name="words",
        version="1",
        labels=LABELS,
        max_length=64,
        temperature=1.0,
        variants={"cpu": Variant(sentiment.MODEL_FILE, batch_texts=8, tolerance=1e-5)},
        trained_on={},
        metrics={},
        files=_hashes(folder),
    )
    (folder / sentiment.MANIFEST_FILE).write_bytes(msgspec.json.encode(made))
    return folder


def _probabilities(text: str) -> tuple[float, float, float]:
    negative, neutral, positive = softmax(np.array([[WORDS[word] for word in text.split()]]).sum(axis=1))[0].tolist()
    return negative, neutral, positive


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _save_words(path: Path, loops: int) -> None:
    """Save a model that adds up the words' logits and negates the sum ``loops`` times, which must be even."""
    negate = helper.make_graph(
        [helper.make_node("Neg", ["sum_in"], ["sum_out"]), helper.make_node("Identity", ["go_in"], ["go_out"])],
        "negate",
        [
            _tensor("i", TensorProto.INT64),
            _tensor("go_in", TensorProto.BOOL),
            _tensor("sum_in", TensorProto.FLOAT, "batch", 3),
        ],
        [_tensor("go_out", TensorProto.BOOL), _tensor("sum_out", TensorProto.FLOAT, "batch", 3)],
    )
    nodes = [
        helper.make_node("Gather", ["weights", "ids"], ["each"]),
        helper.make_node("Cast", ["mask"], ["mask_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask_float", "columns"], ["mask_columns"]),
        helper.make_node("Mul", ["each", "mask_columns"], ["said"]),
        helper.make_node("ReduceSum", ["said", "positions"], ["sum"], keepdims=0),
        helper.make_node("Loop", ["loops", "go", "sum"], ["logits"], body=negate),
    ]
    constants = {
        "weights": np.array(list(WORDS.values()), np.float32),
        "columns": np.array([2], np.int64),
        "positions": np.array([1], np.int64),
        "loops": np.array(loops, np.int64),
        "go": np.array(True),
    }
    inputs = [_tensor(name, TensorProto.INT32, "batch", "length") for name in ("ids", "mask")]
    _save(path, nodes, inputs, [_tensor("logits", TensorProto.FLOAT, "batch", 3)], constants)


def _tensor(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _save(
    path: Path,
    nodes: list[NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> None:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
