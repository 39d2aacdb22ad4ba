"""Descent: an interrupted training goes on to the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress, TaskID

from model_export.training.fit import fit, refit
from tests.model_export.small import QUICK, data_set, examples, same_weights, task


class Interrupted(Progress):
    """A user who presses Ctrl-C when the bar named ``bar`` appears."""

    def __init__(self, bar: str) -> None:
        super().__init__(disable=True)
        self._bar = bar

    def add_task(self, description: str, *args: Any, **others: Any) -> TaskID:
        if description == self._bar:
            raise KeyboardInterrupt
        return super().add_task(description, *args, **others)


@pytest.mark.parametrize("epoch", [2, 3])
def test_interrupted_training_goes_on_to_the_same_weights(epoch: int, tmp_path: Path) -> None:
    data = data_set(200, longest=8)
    whole = fit(task(QUICK), data.train, data.validation)
    kept = tmp_path / "checkpoints" / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(task(QUICK, checkpoint=kept, progress=Interrupted(f"epoch {epoch}")), data.train, data.validation)
    assert kept.is_file()
    # Epochs that were finished are not run again.
    resumed = fit(task(QUICK, checkpoint=kept, progress=Interrupted("epoch 1")), data.train, data.validation)
    assert same_weights(whole.network, resumed.network)
    assert (whole.epochs, whole.best_epoch) == (resumed.epochs, resumed.best_epoch)


def test_interrupted_refit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    rows, kept = examples(200, longest=8), tmp_path / "refit.pt"
    whole = refit(task(QUICK), rows, 3)
    with pytest.raises(KeyboardInterrupt):
        refit(task(QUICK, checkpoint=kept, progress=Interrupted("epoch 3")), rows, 3)
    assert same_weights(whole, refit(task(QUICK, checkpoint=kept, progress=Interrupted("epoch 2")), rows, 3))


def test_warm_start_begins_with_the_given_weights_and_does_not_change_them() -> None:
    rows = examples(200, longest=8)
    warm = refit(task(QUICK), rows, 1)
    before = {name: weights.clone() for name, weights in warm.state_dict().items()}
    assert same_weights(warm, refit(task(QUICK, warm=warm), rows, 0))
    assert not same_weights(warm, refit(task(QUICK, warm=warm), rows, 1))
    assert all(torch.equal(before[name], weights) for name, weights in warm.state_dict().items())
