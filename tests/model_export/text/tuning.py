"""Tunes the small BERT of these tests in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.progress import Progress

from model_export.text.labelled import Split
from model_export.text.sentiment import fit_sentiment
from model_export.text.settings import TextFit
from tests.score.test_sentiment import MAX_LENGTH


def fitted(parts: Split, checkpoint: Path, mode: str, **changes: Any) -> Any:
    # The BERT is random, so it takes this much to learn from 200 texts.
    rate, epochs = {"frozen": (0.1, 40), "lora": (0.02, 6), "full": (0.005, 4)}[mode]
    fit = TextFit(mode=mode, learning_rate=rate, epochs=epochs, max_length=MAX_LENGTH)  # type: ignore[arg-type]
    with Progress(disable=True) as progress:
        return fit_sentiment(parts, str(checkpoint), msgspec.structs.replace(fit, **changes), progress)
