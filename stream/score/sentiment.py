"""Sentiment: review texts → numbers in [-1, 1], by a small text BERT in onnxruntime. Ingestion does not wait for it.

The model folder is written by ``valuestream-model sentiment export``::

    sentiment.onnx       inputs ids (batch, length) int32, mask (batch, length) int32; output logits (batch, 3) float32
    sentiment.int8.onnx  the same with int8 weights, if that loses little
    tokenizer.json       of Hugging Face ``tokenizers``
    sentiment.json       this module's SentimentManifest
    golden.jsonl         texts and expected probabilities, replayed at start-up

The sentiment of a text depends on the text alone, to the bit. So texts of similar length run together, and they are
padded to fixed steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from stream.arrays import Numbers, RawOutputs, TokenRows
from stream.contract.files import read_listed, read_manifest_bytes
from stream.errors import ConfigError, ContractError, ScoringError
from stream.score.session import open_session
from stream.score.signature import Verify, no_signature

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["LABELS", "GoldenText", "Sentiment", "SentimentManifest", "Variant", "open_tokenizer", "padded", "token_ids"]

LABELS: Final = ("negative", "neutral", "positive")
MODEL_FILE: Final = "sentiment.onnx"
INT8_FILE: Final = "sentiment.int8.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
MANIFEST_FILE: Final = "sentiment.json"
GOLDEN_FILE: Final = "golden.jsonl"
FORMAT_VERSION: Final = 1
#: Only this many characters of a text are read. They are far more than ``max_length`` tokens, and they bound the
#: tokenizer's work.
CHARS_MAX: Final = 10_000
#: Texts are padded to a multiple of this many tokens. onnxruntime's CPU kernels take rows of a matrix four at a time
#: and add up the remaining rows in another order. So with other lengths, the last bits of a text's sentiment would
#: depend on the other texts in the batch.
LENGTH_STEP: Final = 8
_EXPORT: Final = "export it again with `valuestream-model sentiment export`"


class Variant(msgspec.Struct, frozen=True):
    """One ONNX file and how to run it. ``tolerance`` is the largest difference from a golden probability."""

    file: str
    #: How many texts may share a run. It is 1 for int8: activations are scaled by the largest in the batch, so other
    #: texts would change the sentiment of a text.
    batch_texts: int
    tolerance: float


class SentimentManifest(msgspec.Struct, frozen=True):
    """All that a sentiment model folder says about itself. New fields go last, with a default."""

    name: str
    version: str
    labels: tuple[str, ...]
    #: Only this many tokens of a text are read; the special tokens count.
    max_length: int
    #: Logits are divided by it. It was fitted on texts that training did not see (Guo et al. 2017).
    temperature: float
    #: Provider → the file that serves on it.
    variants: dict[str, Variant]
    #: About the training: source, counts, span, base checkpoint, settings.
    trained_on: dict[str, str | int | float | bool]
    metrics: dict[str, float]
    #: File name → SHA-256, for every other file of the folder.
    files: dict[str, str]
    format_version: int = FORMAT_VERSION


class GoldenText(msgspec.Struct, frozen=True):
    """A text, and the probabilities of ``LABELS`` that the trained model gave it."""

    text: str
    probabilities: tuple[float, float, float]


class Sentiment:
    """One sentiment model folder in one inference session.

    Raises ConfigError or ContractError if the folder or the provider cannot serve.
    """

    def __init__(self, folder: Path, *, provider: str = "cpu", threads: int = 1, verify: Verify = no_signature) -> None:
        self.manifest: SentimentManifest
        self.manifest, self.sha256 = read_sentiment_manifest(folder, verify)
        if provider not in self.manifest.variants:
            raise ConfigError(
                f"provider is {provider!r}, sentiment model {folder} has {sorted(self.manifest.variants)}; "
                "set --provider to one of these"
            )
        self._variant = self.manifest.variants[provider]
        self._tokenizer = open_tokenizer(self._read(folder, TOKENIZER_FILE), self.manifest.max_length)
        graph = self._read(folder, self._variant.file)
        self._session = open_session(folder / self._variant.file, graph, provider, threads)
        self._check_golden(folder / GOLDEN_FILE, self._read(folder, GOLDEN_FILE))

    def run(self, texts: Sequence[str]) -> RawOutputs:
        """P(positive) - P(negative) of each text, ``(n,)`` in [-1, 1]; 0 for a text without a word.

        Raises ScoringError if the model cannot be run.
        """
        probabilities = self.probabilities(texts)
        out: RawOutputs = probabilities[:, 2] - probabilities[:, 0]
        return out

    def probabilities(self, texts: Sequence[str]) -> RawOutputs:
        """Calibrated probabilities of ``LABELS``, ``(n, 3)`` float32; a text without a word is neutral."""
        out = np.tile(np.array([0, 1, 0], np.float32), (len(texts), 1))
        ids = token_ids(self._tokenizer, texts)
        lengths = np.array([len(row) for row in ids], np.int64)
        # A text without a word has only the special tokens, as an empty text has. It is not run.
        steps = np.where(lengths > self._tokenizer.num_special_tokens_to_add(False), -(-lengths // LENGTH_STEP), 0)
        for step in np.unique(steps[steps > 0]).tolist():
            rows = np.flatnonzero(steps == step)
            for begin in range(0, len(rows), self._variant.batch_texts):
                batch = rows[begin : begin + self._variant.batch_texts]
                logits = self._infer(*padded([ids[row] for row in batch.tolist()]))
                out[batch] = softmax(logits.astype(np.float64) / self.manifest.temperature)
        return out

    def _read(self, folder: Path, name: str) -> bytes:
        return read_listed(folder / MANIFEST_FILE, name, self.manifest.files[name])

    def _infer(self, ids: TokenRows, mask: TokenRows) -> RawOutputs:
        logits: RawOutputs
        try:
            (logits,) = self._session.run(["logits"], {"ids": ids, "mask": mask})
        except Exception as error:
            raise ScoringError(f"the sentiment model could not be run on a batch of {len(ids)}: {error}") from error
        if not np.isfinite(logits).all():
            raise ScoringError(
                "the sentiment model gave NaN or infinity, expected finite numbers; check the provider's libraries"
            )
        return logits

    def _check_golden(self, path: Path, data: bytes) -> None:
        try:
            cases = [msgspec.json.decode(line, type=GoldenText) for line in data.splitlines()]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ContractError(f"{path} cannot be read: {error}; {_EXPORT}") from None
        if not cases:
            raise ContractError(f"{path} holds no golden text; {_EXPORT}")
        expected = np.array([case.probabilities for case in cases])
        worst = float(np.abs(self.probabilities([case.text for case in cases]) - expected).max())
        if not worst <= self._variant.tolerance:
            raise ContractError(
                f"{path}: probabilities differ from the golden texts by {worst:.1e}, expected at most "
                f"{self._variant.tolerance:.0e}; the model or the runtime is not what was exported: {_EXPORT}"
            )


def open_tokenizer(data: bytes, max_length: int) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``; it cuts texts at ``max_length`` tokens and pads nothing.

    Raises ConfigError if the library is not installed, ContractError if the file cannot be read.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(
            "sentiment needs tokenizers, which is not installed; pip install 'valuestream[cpu]'"
        ) from None
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:
        raise ContractError(f"{TOKENIZER_FILE} cannot be read: {error}; {_EXPORT}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text. Texts go in one at a time: a batch call would take every core of the machine."""
    # The tokenizer refuses a lone surrogate, because it is no character. So it is replaced.
    clean = (text[:CHARS_MAX].encode("utf-8", "replace").decode() for text in texts)
    return [tokenizer.encode(text).ids for text in clean]


def padded(ids: Sequence[Sequence[int]]) -> tuple[TokenRows, TokenRows]:
    """Token ids and mask, both ``(n, length)``; the length is a multiple of ``LENGTH_STEP``.

    >>> padded([[5, 6], [7]])[1].sum(axis=1)
    array([2, 1])
    """
    length = -(-max(len(row) for row in ids) // LENGTH_STEP) * LENGTH_STEP
    tokens, mask = np.zeros((len(ids), length), np.int32), np.zeros((len(ids), length), np.int32)
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return tokens, mask


def softmax(logits: Numbers) -> Numbers:
    """Probabilities ``(n, k)`` of logits ``(n, k)``. The largest logit is subtracted first, so nothing overflows."""
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    out: Numbers = exp / exp.sum(axis=1, keepdims=True)
    return out


def read_sentiment_manifest(folder: Path, verify: Verify = no_signature) -> tuple[SentimentManifest, str]:
    """Read and check a sentiment model folder. Returns the manifest and the SHA-256 of its bytes.

    Raises ConfigError if a file is missing, ContractError if one was altered or has another format.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ConfigError(
            f"sentiment model folder {folder} has no {MANIFEST_FILE}; "
            "give a folder written by `valuestream-model sentiment export`"
        )
    data = read_manifest_bytes(path)
    verify(path, data)
    try:
        manifest = msgspec.json.decode(data, type=SentimentManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{path} cannot be read: {error}; {_EXPORT}") from None
    found, ours = (manifest.format_version, manifest.labels), (FORMAT_VERSION, LABELS)
    if found != ours:
        raise ContractError(f"{path}: format and labels are {found}, this build serves {ours}; {_EXPORT}")
    for name in {TOKENIZER_FILE, GOLDEN_FILE, *(v.file for v in manifest.variants.values())} - set(manifest.files):
        raise ContractError(f"{path} does not list {name}; {_EXPORT}")
    if min([manifest.temperature, *(v.batch_texts for v in manifest.variants.values())]) <= 0:
        raise ContractError(f"{path}: temperature and batch_texts must be above 0; {_EXPORT}")
    for name, expected in manifest.files.items():
        read_listed(path, name, expected)
    return manifest, hashlib.sha256(data).hexdigest()
