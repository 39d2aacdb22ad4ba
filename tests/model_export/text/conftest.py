"""Fixtures of the text tests: a small random BERT, labelled reviews, and a run that was trained on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.text.encoder import TextBert
from model_export.text.labelled import Columns, Split, read_labelled, split
from tests.score.test_sentiment import MAX_LENGTH, write_checkpoint, write_reviews, write_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> TextBert:
    return TextBert.load(str(checkpoint), MAX_LENGTH)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return split(read_labelled(write_reviews(tmp_path_factory.mktemp("texts") / "r.csv"), Columns(time="time")), 5)
