"""Sentiment: a text scores the same in any batch, and a model folder that is not what it claims is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.progress import Progress
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from model_export.text.export import export_sentiment
from model_export.text.labelled import Columns
from model_export.text.sentiment import train_sentiment
from model_export.text.settings import TextFit
from stream.errors import ConfigError, ContractError, ScoringError
from stream.score.sentiment import (
    CHARS_MAX,
    GOLDEN_FILE,
    INT8_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    Sentiment,
)

WORDS = {
    "negative": ["awful", "broken", "terrible", "refund", "worst"],
    "neutral": ["box", "size", "arrived", "question", "tuesday"],
    "positive": ["great", "lovely", "perfect", "thanks", "best"],
}
FILLERS = ["the", "it", "was", "my", "order", "shoes", "and", "this", "a", "bag"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
MAX_LENGTH = 24


def write_checkpoint(folder: Path, seed: int = 3) -> Path:
    """A BERT of two layers, 32 wide, with random weights and a word-piece tokenizer of our few words."""
    pieces = [*SPECIAL, *(w for words in WORDS.values() for w in words), *FILLERS, "##s", "."]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    whole.save_pretrained(folder)
    return folder


def write_reviews(path: Path, n: int = 300, seed: int = 1) -> Path:
    """Reviews an hour apart: two words of the class among fillers, and a number that makes each text unique."""
    rng = np.random.default_rng(seed)
    lines = ["text,label,time,user"]
    for i in range(n):
        label = list(WORDS)[i % 3]
        words = [*rng.choice(WORDS[label], 2), *rng.choice(FILLERS, rng.integers(1, 8)), str(i)]
        rng.shuffle(words)
        lines.append(f"{' '.join(words)},{label},{1_700_000_000 + 3_600 * i},u{i % 40}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_run(folder: Path) -> Path:
    """A trained run folder of the tiny BERT, with a head that has learned the words."""
    fit = TextFit(mode="frozen", max_length=MAX_LENGTH, epochs=40, learning_rate=0.1)
    with Progress(disable=True) as progress:
        train_sentiment(
            write_reviews(folder / "reviews.csv"), Columns(time="time"), folder / "run", fit, progress,
            name="tiny", checkpoint=str(write_checkpoint(folder / "bert")), rows_max=10_000, class_min=5,
        )  # fmt: skip
    return folder / "run"


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("sentiment"))


@pytest.fixture(scope="module")
def int8_folder(text_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "int8"
    assert export_sentiment(text_run, out, int8_loss_max=0.5).variants["cpu"].file == INT8_FILE
    return out


@pytest.fixture(scope="module")
def fp32_folder(text_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "fp32"
    # int8 is served only if its loss is below the limit. It cannot be below -1, so fp32 is served.
    assert export_sentiment(text_run, out, int8_loss_max=-1.0).variants["cpu"].file == MODEL_FILE
    return out


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest) -> Sentiment:
    return Sentiment(request.getfixturevalue(f"{request.param}_folder"))


@pytest.fixture
def copied(fp32_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fp32_folder, tmp_path / "model")


class Watched:
    """A session that notes its batches, and may fail or give NaN."""

    def __init__(self, session: Any, answer: Callable[[Any], Any] = lambda outputs: outputs) -> None:
        self._session, self._answer = session, answer
        self.shapes: list[tuple[int, int]] = []

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> Any:
        self.shapes.append(inputs["ids"].shape)
        return self._answer(self._session.run(names, inputs))


# Alone and in a batch ---------------------------------------------------------------------------------

VOCABULARY = [*FILLERS, *(w for words in WORDS.values() for w in words), "unheard-of", "🙂", "Größe"]
TEXTS = st.lists(st.lists(st.sampled_from(VOCABULARY), max_size=40).map(" ".join), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, pick=st.randoms(use_true_random=False))
def test_text_scores_same_alone_and_in_any_batch(model: Sentiment, texts: list[str], pick: Any) -> None:
    together = model.run(texts)
    order = list(range(len(texts)))
    pick.shuffle(order)
    assert model.run([texts[i] for i in order]).tobytes() == together[order].tobytes()
    for text, number in zip(texts[:4], together, strict=False):
        assert model.run([text])[0].tobytes() == number.tobytes()


def test_text_is_padded_by_its_own_length_not_by_other_texts(model: Sentiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of 5 words has 7 tokens, one of 7 words has 9. The first must not be run at the length of the second."""
    watched = Watched(model._session)
    monkeypatch.setattr(model, "_session", watched)
    model.run(["great " * 5, "awful " * 7])
    assert sorted(watched.shapes) == [(1, 8), (1, 16)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(), max_size=60), max_size=6))
def test_any_text_gets_a_sentiment_in_range(model: Sentiment, texts: list[str]) -> None:
    """The texts include lone surrogates, control characters and the tokenizer's own markers."""
    sentiments = model.run(texts)
    assert sentiments.shape == (len(texts),) and sentiments.dtype == np.float32
    assert (np.abs(sentiments) <= 1).all()


def test_no_texts_have_no_sentiments(model: Sentiment) -> None:
    assert model.run([]).shape == (0,)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00"])
def test_text_without_a_word_is_exactly_neutral(model: Sentiment, text: str) -> None:
    assert model.run([text, "great"])[0] == 0.0


def test_sentiment_has_the_sign_of_the_words(model: Sentiment) -> None:
    good, plain, bad = model.run(["great lovely perfect", "size of box", "awful broken worst"])
    assert good > 0.5 > plain > -0.5 > bad


def test_sentiment_is_the_difference_of_the_probabilities(model: Sentiment) -> None:
    texts = ["great bag", "my broken shoes", "tuesday"]
    p = model.probabilities(texts)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert (model.run(texts) == p[:, 2] - p[:, 0]).all()


# Bounds -----------------------------------------------------------------------------------------------


def test_batches_are_never_larger_than_the_manifest_says(model: Sentiment, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(model._session)
    monkeypatch.setattr(model, "_session", watched)
    model.run(["great bag"] * 150 + ["it was " * 30] * 50)
    limit = model.manifest.variants["cpu"].batch_texts
    assert max(rows for rows, _ in watched.shapes) == min(limit, 150)
    assert max(length for _, length in watched.shapes) == MAX_LENGTH


def test_words_beyond_the_bounds_of_a_text_change_nothing(model: Sentiment) -> None:
    beyond_tokens = "it was " * MAX_LENGTH
    assert model.run([beyond_tokens])[0] == model.run([beyond_tokens + "awful " * 50])[0]
    beyond_chars = "great" + " " * CHARS_MAX
    assert model.run([beyond_chars + "awful"])[0] == model.run(["great"])[0]


# Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [lambda outputs: [np.full_like(outputs[0], np.nan)], lambda outputs: 1 / 0],
    ids=["nan", "raises"],
)
def test_model_that_fails_is_a_scoring_error(
    model: Sentiment, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(model, "_session", Watched(model._session, answer))
    with pytest.raises(ScoringError, match="sentiment model"):
        model.run(["great"])


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def accept(folder: Path, name: str) -> None:
    """Put the hash of a changed file into the manifest, so that the file is accepted."""
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    change_manifest(folder, files=files | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()})


def test_folder_without_a_manifest_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sentiment export"):
        Sentiment(tmp_path)


@pytest.mark.parametrize("name", [MODEL_FILE, TOKENIZER_FILE, GOLDEN_FILE])
def test_altered_or_missing_file_is_refused(copied: Path, name: str) -> None:
    with (copied / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ContractError, match=f"{name} was altered"):
        Sentiment(copied)
    (copied / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        Sentiment(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "this build serves"),
        ({"labels": ["bad", "so-so", "good"]}, "this build serves"),
        ({"temperature": 0}, "above 0"),
        ({"files": {"../secret": "00"}}, "does not list"),
        ({"variants": {"cpu": {"file": "other.onnx", "batch_texts": 1, "tolerance": 1}}}, "does not list other.onnx"),
        ({"max_length": "long"}, "cannot be read"),
    ],
)
def test_manifest_that_does_not_fit_is_refused(copied: Path, changes: dict[str, Any], message: str) -> None:
    change_manifest(copied, **changes)
    with pytest.raises(ContractError, match=message):
        Sentiment(copied)


def test_file_outside_the_folder_is_never_read(copied: Path) -> None:
    files = json.loads((copied / MANIFEST_FILE).read_text())["files"]
    change_manifest(copied, files=files | {"../outside": "00"})
    with pytest.raises(ContractError, match="inside the folder"):
        Sentiment(copied)


def test_other_weights_fail_the_golden_texts(copied: Path) -> None:
    change_manifest(copied, temperature=9.0)
    with pytest.raises(ContractError, match="golden texts"):
        Sentiment(copied)


@pytest.mark.parametrize(("content", "message"), [(b"", "no golden text"), (b'{"text": 1}\n', "cannot be read")])
def test_golden_file_without_cases_is_refused(copied: Path, content: bytes, message: str) -> None:
    (copied / GOLDEN_FILE).write_bytes(content)
    accept(copied, GOLDEN_FILE)
    with pytest.raises(ContractError, match=message):
        Sentiment(copied)


def test_tokenizer_that_cannot_be_read_is_refused(copied: Path) -> None:
    (copied / TOKENIZER_FILE).write_text("{}")
    accept(copied, TOKENIZER_FILE)
    with pytest.raises(ContractError, match=r"tokenizer\.json cannot be read"):
        Sentiment(copied)


def test_provider_that_the_folder_lacks_is_refused(fp32_folder: Path) -> None:
    with pytest.raises(ConfigError, match="provider is 'tpu'"):
        Sentiment(fp32_folder, provider="tpu")


def test_serving_needs_neither_torch_nor_transformers(fp32_folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stream.score.sentiment import Sentiment; "
        "print(Sentiment(Path(sys.argv[1])).run(['great'])[0] > 0, "
        "[m for m in ('torch', 'transformers', 'sklearn', 'model_export') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(fp32_folder)], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["True", "[]\n"]
