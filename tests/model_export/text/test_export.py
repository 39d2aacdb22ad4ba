"""Export: the exported model is the trained one, and the folder is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.text.export import GOLDEN_TEXTS, export_sentiment
from model_export.text.labelled import Split
from model_export.text.sentiment import load_sentiment_run, text_metrics
from model_export.text.tune import logits
from stream.errors import ConfigError
from stream.score.sentiment import MANIFEST_FILE, Sentiment, softmax, token_ids


def test_exported_model_gives_what_the_trained_one_gives(text_run: Path, tmp_path: Path, parts: Split) -> None:
    export_sentiment(text_run, tmp_path / "model", int8_loss_max=-1)
    run, classifier, _ = load_sentiment_run(text_run)
    outputs = logits(classifier, token_ids(classifier.encoder.tokenizer, parts.test.texts))
    served = Sentiment(tmp_path / "model").probabilities(parts.test.texts)
    np.testing.assert_allclose(served, softmax(outputs / run.temperature), atol=2e-6)
    assert text_metrics(served, parts.test.labels)["accuracy"] == run.metrics["accuracy"]


def test_same_run_gives_the_same_bytes_and_no_training_text(text_run: Path, tmp_path: Path, parts: Split) -> None:
    for name in ("one", "two"):
        export_sentiment(text_run, tmp_path / name)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    small = b"".join(data for name, data in one.items() if name.endswith((".json", ".jsonl")))
    assert GOLDEN_TEXTS[0].encode() in small
    assert not any(text.encode() in small for part in (parts.train, parts.test) for text in part.texts)


def test_failed_export_leaves_the_folder_that_was_there(
    text_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "model"
    export_sentiment(text_run, out, int8_loss_max=-1)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr("model_export.text.export._quantise", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_sentiment(text_run, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_folder_of_someone_else_is_never_replaced(text_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=MANIFEST_FILE):
        export_sentiment(text_run, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep me"
