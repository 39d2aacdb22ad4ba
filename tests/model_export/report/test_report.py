"""The report: its numbers are the measured ones, its words agree with them, and it is one file that stands alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from model_export.data.labels import head_names
from model_export.evaluation.evaluation_folder import (
    METRICS_FILE,
    Evaluation,
    Outcomes,
    Scores,
    load_evaluation,
    measured,
    save_arrays,
)  # fmt: skip
from model_export.metrics.ranking import rank_predictions
from model_export.report import summary, write_report
from model_export.report.answers import headlines
from model_export.report.drift import psi
from model_export.report.material import best_f1_threshold, read_material
from model_export.report.people import USERS_MIN
from model_export.report.wording import compared, verdict_of, with_interval
from model_export.settings import EvaluateConfig, Settings
from stream.contract.columns import DAY_S
from stream.contract.tokens import FEATURES
from stream.errors import ConfigError

Array = npt.NDArray[Any]
N: Final = 500
NEWEST: Final = 1_700_000_000
#: Spread of the error in log-odds of each model: the smaller, the better its ranking.
ERRORS: Final = {
    "recency": 2.0, "lightgbm": 0.8, "bgnbd": 1.5, "event_bert": 1.0, "fused": 0.2, "fused_without_time": 0.9,
}  # fmt: skip
#: Of users; the last is below the bound.
GROUPS: Final = {"": 200, "old": 180, "<b>new</b>": 100, "secret": USERS_MIN - 10}
SETTINGS: Final = Settings(name="shop & sons", evaluate=EvaluateConfig(snapshots=3, seeds=(7, 8), resamples=40))

SMALL: Final = Settings(evaluate=EvaluateConfig(snapshots=1, seeds=(7,), resamples=20))


def sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def make(folder: Path, errors: dict[str, float] = ERRORS, settings: Settings = SETTINGS, value: float = 40.0) -> Path:
    """An evaluation folder of three snapshots, whose users drift, and of models with these errors."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    heads = len(head_names(settings.labels))
    for k in range(settings.evaluate.snapshots):
        truth = rng.normal(-0.5 + 0.4 * k, 1.5, (N, heads))
        labels = (rng.random((N, heads)) < sigmoid(truth)).astype(np.float32)
        spent = labels[:, -1] * rng.lognormal(np.log(value or 1), 0.5, N) * bool(value)
        save_arrays(folder / f"{k}.safetensors", outcomes(rng, k, labels, spent))
        for model, error in errors.items():
            for seed in settings.evaluate.seeds:
                p = sigmoid(truth + rng.normal(0, error, (N, heads)))
                score = Scores(p, value * p[:, -1], sigmoid(2 * truth + 1), 3 * value * p[:, -1])
                save_arrays(folder / f"{k}-{model}-{seed}.safetensors", score)
    write_metrics(folder, measured(settings, folder, list(errors), list(GROUPS), {"snapshot 0, censored": 1_234}))
    return folder


def outcomes(rng: np.random.Generator, k: int, labels: Array, spent: Array) -> Outcomes:
    """Users with one order at even places; revenue_30d moves from snapshot to snapshot."""
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
    return Outcomes(np.arange(N), as_of, labels, spent.astype(np.float64), features, group)


def write_metrics(folder: Path, evaluation: Evaluation) -> None:
    (folder / METRICS_FILE).write_bytes(msgspec.json.encode(evaluation))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Text of the page, identifiers, and tags that were not closed in order."""

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


def test_every_measured_number_is_in_the_page_with_its_interval(folder: Path, page: str) -> None:
    text = Reader(page).text
    for of_task in load_evaluation(folder).tasks.values():
        for of_model in of_task.values():
            for metric, bounds in of_model.items():
                assert with_interval(metric, bounds) in text


def test_page_asks_for_nothing_outside_itself(page: str) -> None:
    assert "http" not in page
    assert not re.findall(r"<(?:script|link|img|iframe|object|embed|image)\b|\bsrc=|@import|\burl\((?!#)", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))


def test_page_is_small_and_well_formed_and_no_identifier_is_in_it_twice(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.identifiers) == len(set(reader.identifiers))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)) <= {
        pair for name in reader.identifiers for pair in ((name, ""), ("", name))
    }
    assert len(page.encode()) < 3_000_000


def test_same_folder_gives_the_same_bytes(folder: Path, page: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert write_report(tmp_path / "copy").read_text(encoding="utf-8") == page


def test_every_plot_has_an_alternative_text(page: str) -> None:
    plots = re.findall(r"<svg[^>]*>", page)
    assert len(plots) >= 12
    assert all(re.search(r'role="img" aria-label="[^"]{20,}"', plot) for plot in plots)


def test_text_from_outside_is_escaped(page: str) -> None:
    assert "<b>new</b>" not in page
    assert "&lt;b&gt;new&lt;/b&gt;" in page
    assert "shop &amp; sons" in page


def test_group_below_the_bound_is_not_shown(page: str) -> None:
    assert "secret" not in page
    assert len(rows(page, "old")) == 3
    assert "Groups not shown, as they have fewer than 30 users: 1 of 4." in Reader(page).text


def test_group_rows_are_those_of_the_newest_snapshot(folder: Path, page: str) -> None:
    material = read_material(folder)
    inside = material.newest.group == 1
    p, y = material.probability("churn")[inside], material.actual("churn")[inside]
    called = p >= best_f1_threshold(rank_predictions(material.probability("churn"), material.actual("churn")))
    row = rows(page, "old")[0]
    assert row[1] == "180"
    assert row[2].startswith(f"{y.mean():.3f} [")
    assert row[3] == f"{p.mean():.3f}"
    assert row[6:] == [f"{100 * called[y == 0].mean():.1f} %", f"{100 * (~called)[y == 1].mean():.1f} %"]


def test_headline_says_better_where_the_interval_lies_above_zero(folder: Path, page: str) -> None:
    assert load_evaluation(folder).differences["churn"]["lightgbm"]["auc"][0] > 0
    assert page.count('<div class="verdict better">') == 4
    assert "It ranks users better than LightGBM by" in page


def test_headline_says_worse_where_the_interval_lies_below_zero(tmp_path: Path) -> None:
    folder = make(tmp_path / "worse", {"lightgbm": 0.1, "fused": 2.5}, SMALL)
    assert load_evaluation(folder).differences["churn"]["lightgbm"]["auc"][2] < 0
    found = headlines(read_material(folder))
    assert found.count('<div class="verdict worse">') == 4
    assert "It ranks users worse than LightGBM by" in found
    assert "ranks users better" not in found


@pytest.mark.parametrize(
    ("metric", "difference", "word"),
    [
        ("auc", (0.01, 0.02, 0.03), "better"),
        ("auc", (-0.03, -0.02, -0.01), "worse"),
        ("auc", (-0.01, 0.02, 0.03), "not worse"),
        ("ece", (0.01, 0.02, 0.03), "worse"),
        ("rmse", (-0.03, -0.02, -0.01), "better"),
        ("auc", (None, 0.2, None), "not known"),
    ],
)
def test_verdict_follows_the_interval(metric: str, difference: Any, word: str) -> None:
    assert verdict_of(metric, difference) == word
    assert compared(metric, difference, "it").startswith("not compared" if word == "not known" else f"{word} than it")


def test_snapshot_rows_average_to_the_measured_numbers(folder: Path, page: str) -> None:
    measured_auc = load_evaluation(folder).tasks["churn"]["fused"]["auc"][1]
    of_snapshots = [float(row[5]) for row in rows(page, "churn") if len(row) == 8]
    assert len(of_snapshots) == 3
    assert np.mean(of_snapshots) == pytest.approx(measured_auc, abs=1e-3)


def test_feature_that_moved_is_named_and_one_that_stayed_is_not_called_drift(folder: Path, page: str) -> None:
    alternative = re.findall(r'aria-label="Drift of features: ([^"]*)"', page)[0]
    assert alternative.startswith("revenue_30d ")
    assert f"Of {len(FEATURES)} features, 1 moved strongly" in Reader(page).text


def test_stability_index_is_the_known_one_of_two_halves() -> None:
    before, after = np.repeat([0.0, 1.0], [50, 50]), np.repeat([0.0, 1.0], [20, 80])
    assert psi(before, after) == pytest.approx(0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5))


def test_threshold_of_best_f1_is_that_of_all_tried() -> None:
    rng = np.random.default_rng(1)
    p = rng.integers(0, 50, 400) / 50
    y = (rng.random(400) < p**2).astype(float)

    def f1(threshold: float) -> float:
        return 2 * float(((p >= threshold) & (y > 0)).sum()) / float((p >= threshold).sum() + y.sum())

    assert f1(best_f1_threshold(rank_predictions(p, y))) == max(f1(threshold) for threshold in np.unique(p))


def test_calibration_is_shown_before_and_after(folder: Path, page: str) -> None:
    evaluation = load_evaluation(folder)
    before, after = (of["churn"]["fused"]["ece"] for of in (evaluation.uncalibrated, evaluation.tasks))
    assert f"churn: ECE {before[1]:.3f} before, {with_interval('ece', after)} after calibration" in Reader(page).text


def test_ablations_are_compared_with_the_whole(folder: Path, page: str) -> None:
    difference = load_evaluation(folder).differences["churn"]["fused_without_time"]["auc"]
    found = [row for row in rows(page, "churn") if row[1] == "fused_without_time"]
    assert found[0][2] == with_interval("auc", difference, difference=True)


def test_what_was_left_out_and_how_to_repeat_it_is_told(page: str) -> None:
    assert rows(page, "snapshot 0, censored") == [["snapshot 0, censored", "1,234"]]
    assert "resamples = 40" in Reader(page).text
    assert "valuestream-model evaluate settings.toml" in page


def test_without_value_groups_and_other_snapshots_the_page_is_still_whole(tmp_path: Path) -> None:
    folder = make(tmp_path / "small", {"fused": 0.5}, SMALL, value=0.0)
    write_metrics(folder, msgspec.structs.replace(load_evaluation(folder), groups=[""]))
    text = Reader(write_report(folder).read_text(encoding="utf-8")).text
    assert "There is one snapshot" in text
    assert not [title for title in ("What users are worth", "Groups of users", "What the parts are") if title in text]


def forget_metrics(folder: Path) -> None:
    (folder / METRICS_FILE).unlink()


def forget_scores(folder: Path) -> None:
    for path in folder.glob("1-fused-*"):
        path.unlink()


def forget_outcomes(folder: Path) -> None:
    (folder / "0.safetensors").unlink()


@pytest.mark.parametrize("forget", [forget_metrics, forget_scores, forget_outcomes])
def test_incomplete_folder_is_refused_with_the_next_step(
    folder: Path, tmp_path: Path, forget: Callable[[Path], None]
) -> None:
    shutil.copytree(folder, tmp_path / "part")
    forget(tmp_path / "part")
    with pytest.raises(ConfigError, match="run `valuestream-model evaluate`"):
        write_report(tmp_path / "part")


def test_summary_holds_every_model_with_its_interval_and_the_difference_to_lightgbm(folder: Path) -> None:
    evaluation = load_evaluation(folder)
    text = summary(evaluation)
    for task, of_task in evaluation.tasks.items():
        assert f"`{task}`" in text
        metrics = {"gini", "decile_mape", "total_bias"} if task == "ltv" else {"auc", "pr_auc", "log_loss", "ece"}
        for model, of_model in of_task.items():
            row = next(line for line in text.split(f"(`{task}`")[1].splitlines() if line.startswith(f"| {model} |"))
            assert all(with_interval(metric, of_model[metric]) in row for metric in metrics)
    assert text.count("| fused − lightgbm |") == len(evaluation.tasks)
