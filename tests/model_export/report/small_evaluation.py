"""A small evaluation folder made of random scores, and a reader of the page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from model_export.data.labels import head_names
from model_export.evaluation.evaluation_folder import METRICS_FILE, Evaluation, ScoredExamples, Scores, save_arrays
from model_export.evaluation.measure_scores import measure_scores
from model_export.report.people import USERS_MIN
from model_export.settings import EvaluateConfig, Settings
from stream.arrays import Floats
from stream.contract.columns import DAY_S
from stream.contract.tokens import FEATURES

N: Final = 500
NEWEST: Final = 1_700_000_000
#: Spread of the error in log-odds of each model: the smaller, the better its ranking.
ERRORS: Final = {
    "recency": 2.0, "lightgbm": 0.8, "bgnbd": 1.5, "event_bert": 1.0, "fused": 0.2, "fused_without_time": 0.9,
}  # fmt: skip
#: How many users each group has. The last group is too small to be shown.
GROUPS: Final = {"": 200, "old": 180, "<b>new</b>": 100, "secret": USERS_MIN - 10}
SETTINGS: Final = Settings(name="shop & sons", evaluate=EvaluateConfig(snapshots=3, seeds=(7, 8), resamples=40))

SMALL: Final = Settings(evaluate=EvaluateConfig(snapshots=1, seeds=(7,), resamples=20))


def sigmoid(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-z)))


def make(folder: Path, errors: dict[str, float] = ERRORS, settings: Settings = SETTINGS, value: float = 40.0) -> Path:
    """Write an evaluation folder: snapshots with users that drift, and models with these errors in log-odds."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    heads = len(head_names(settings.labels))
    for k in range(settings.evaluate.snapshots):
        truth = rng.normal(-0.5 + 0.4 * k, 1.5, (N, heads))
        labels = (rng.random((N, heads)) < sigmoid(truth)).astype(np.float32)
        spent = labels[:, -1] * rng.lognormal(np.log(value or 1), 0.5, N) * bool(value)
        save_arrays(folder / f"{k}.safetensors", scored_examples(rng, k, labels, spent))
        for model, error in errors.items():
            for seed in settings.evaluate.seeds:
                p = sigmoid(truth + rng.normal(0, error, (N, heads)))
                score = Scores(p, value * p[:, -1], sigmoid(2 * truth + 1), 3 * value * p[:, -1])
                save_arrays(folder / f"{k}-{model}-{seed}.safetensors", score)
    write_metrics(
        folder,
        measure_scores(settings, folder, list(errors), groups=list(GROUPS), left_out={"snapshot 0, censored": 1_234}),
    )
    return folder


def scored_examples(rng: np.random.Generator, k: int, labels: npt.NDArray[np.float32], spent: Floats) -> ScoredExamples:
    """Every other user has one order; revenue_30d moves from snapshot to snapshot."""
    features = np.zeros((N, len(FEATURES)), np.float32)
    columns = {
        "tenure": np.log1p(rng.uniform(1, 80, N)),
        "n_events": np.log1p(rng.integers(1, 60, N)),
        "orders": np.log1p(np.arange(N) % 2 == 0),
        "order_recency": np.log1p(np.arange(N) / 10),
        "revenue_30d": rng.normal(k, 1, N),
    }
    for name, column in columns.items():
        features[:, FEATURES.index(name)] = column
    group = np.repeat(np.arange(len(GROUPS)), list(GROUPS.values())).astype(np.int32)
    as_of = np.full(N, NEWEST - 14 * DAY_S * k)
    return ScoredExamples(np.arange(N), as_of, labels, spent.astype(np.float64), features, group)


def write_metrics(folder: Path, evaluation: Evaluation) -> None:
    (folder / METRICS_FILE).write_bytes(msgspec.json.encode(evaluation))


class Reader(HTMLParser):
    """Collects the text of the page, its identifiers, its table rows, and the tags that are still open."""

    VOID: Final = frozenset({"meta", "br", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.identifiers, self.open, self.rows = "", [], [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.identifiers += [value for name, value in attrs if name == "id"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def rows(page: str, first: str) -> list[list[str]]:
    """Table rows with this first cell."""
    return [row for row in Reader(page).rows if row[0] == first]
