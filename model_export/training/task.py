"""Task: describes one training of a network: how it is trained, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from model_export.data.examples import Examples
from model_export.network.event_bert import EventBert, ModelConfig, Shape
from model_export.text.products import ProductTable
from model_export.training.dp_sgd import PrivateConfig
from stream.arrays import Slots

__all__ = ["FitConfig", "Task", "frequent_categories"]


class FitConfig(PrivateConfig, frozen=True, forbid_unknown_fields=True):
    """How a network is trained."""

    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    #: Share of all steps in which the learning rate rises to its full size.
    warmup: float = 0.1
    clip_norm: float = 1.0
    #: Training stops after this many epochs without a better validation loss.
    patience: int = 2
    #: Epochs in which the encoder first learns to tell hidden events from the others of their history.
    pretrain_epochs: int = 0
    #: How much of the drift over the last horizon is expected to happen again (docs/decisions/0008).
    drift: float = 0.5
    #: Number of threads. It is fixed because the order of a sum depends on it: the same number gives the same weights.
    threads: int = 1
    #: Fewest examples of each class with which a head may be trained, calibrated or measured.
    class_min: int = 50


@dataclass(frozen=True, slots=True)
class Task:
    """One training of one network."""

    model: ModelConfig
    config: FitConfig
    seed: int
    #: Hash buckets of the next-category classes.
    categories: Slots
    progress: Progress
    products: ProductTable | None = None
    #: Training starts from the weights of this network, instead of a new network.
    warm: EventBert | None = None
    #: File that keeps the state after each epoch, so that an interrupted training goes on. None: nothing is kept.
    checkpoint: Path | None = None

    def shape(self, horizons: int) -> Shape:
        """The shape of the network, with this number of purchase heads."""
        rows = 0 if self.products is None else len(self.products.vectors)
        return Shape(horizons, len(self.categories), rows)


def frequent_categories(examples: Examples, categories_max: int) -> Slots:
    """Hash buckets ``(k,)`` of the categories that come next most often, most frequent first."""
    buckets, counts = np.unique(examples.category[examples.category > 0], return_counts=True)
    return buckets[np.lexsort((buckets, -counts))][:categories_max].astype(np.int64)
