"""Evaluate: all candidates score the same users, finished scores are kept, and groups are read or refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from model_export.data.dataset import build
from model_export.data.event_log import load
from model_export.evaluation.candidates import CANDIDATES
from model_export.evaluation.evaluate import evaluate
from model_export.evaluation.evaluation_folder import Evaluation, load_evaluation, load_scored_examples, load_scores
from model_export.settings import Settings
from stream.contract.columns import DAY_S
from stream.errors import ConfigError
from tests.model_export.small import SHOP, changed

SETTINGS = changed(changed(SHOP, "snapshots", at_event=0.0), "data", users=300, days=75)
HORIZON = 10 * DAY_S


def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture(autouse=True, scope="module")
def few_rounds() -> Iterator[None]:
    """Give boosted trees few rounds: what they learn is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.baselines.trees._ROUNDS_MAX", 15)
        # The network without its linear start learns faster here, because it is trained for a short time only.
        patch.setattr("model_export.evaluation.candidates._RATE_FROM_NOTHING", 2e-2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "shop"
    evaluate(SETTINGS, out, quiet())
    return out


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> Evaluation:
    return load_evaluation(folder)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*-*.safetensors")}


def test_all_seven_candidates_are_measured_on_every_task_with_an_interval(evaluation: Evaluation) -> None:
    assert list(evaluation.tasks) == ["churn", "purchase_3d", "purchase_10d", "ltv"]
    assert list(CANDIDATES) == ["recency", "logistic", "lightgbm", "bgnbd", "event_bert", "fused", "lightgbm_bert"]
    for task, models in evaluation.tasks.items():
        assert list(models) == list(CANDIDATES)
        for model, metrics in models.items():
            metric = "gini" if task == "ltv" else "auc"
            low, value, high = metrics[metric]
            assert low is not None
            assert value is not None
            assert high is not None
            assert low <= value <= high, (task, model)
            assert low < high, (task, model)


def test_metrics_file_holds_the_evaluation_and_names_no_folder(folder: Path, evaluation: Evaluation) -> None:
    assert msgspec.json.decode((folder / "metrics.json").read_bytes(), type=Evaluation) == evaluation
    assert evaluation.settings == SETTINGS
    assert evaluation.currency == "USD"
    assert str(folder) not in (folder / "metrics.json").read_text()


def test_test_sets_are_steps_apart_and_every_candidate_scores_the_same_users(folder: Path) -> None:
    test_sets = load_scored_examples(folder)
    log = load(SETTINGS.data)
    last = [log.until(log.span[1] - k * 8 * DAY_S).span[1] - HORIZON for k in range(2)]
    assert 8 * DAY_S <= last[0] - last[1] < 9 * DAY_S
    assert [int(o.as_of.max()) for o in test_sets] == last
    for o, end in zip(test_sets, last, strict=True):
        assert end - 6 * DAY_S <= o.as_of.min()
    for model in CANDIDATES:
        for o, (scores,) in zip(test_sets, load_scores(folder, model), strict=True):
            assert scores.p.shape == scores.p_raw.shape == (len(o.user), 3)
            assert ((scores.p > 0) & (scores.p < 1)).all()
            assert (scores.value >= 0).all()


def test_censored_users_are_counted_in_the_evaluation(evaluation: Evaluation) -> None:
    assert evaluation.left_out["snapshot 0, censored"] > 0
    assert evaluation.left_out["snapshot 1, censored"] > 0


def test_an_earlier_test_set_knows_no_event_after_its_end(folder: Path) -> None:
    examples = load_scored_examples(folder)[1]
    log = load(SETTINGS.data)
    known = log.until(log.span[1] - 8 * DAY_S)
    data = build(known, SETTINGS.labels, SETTINGS.snapshots, SETTINGS.seed).of_kind(at_event=False)
    assert np.array_equal(examples.features, data.test.features)
    assert np.array_equal(examples.labels, np.column_stack((data.test.churn, data.test.purchase)))


def test_an_interrupted_evaluation_makes_only_the_missing_scores(folder: Path) -> None:
    before = times(folder)
    metrics = (folder / "metrics.json").read_bytes()
    assert len(before) == 2 * len(CANDIDATES)
    (folder / "1-logistic-7.safetensors").unlink()
    (folder / "metrics.json").unlink()
    evaluate(SETTINGS, folder, quiet())
    after = times(folder)
    assert {name for name in before if before[name] != after[name]} == {"1-logistic-7.safetensors"}
    assert (folder / "metrics.json").read_bytes() == metrics


def test_scores_made_with_other_settings_are_removed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(folder, copy)
    before = times(copy)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model_export.data.event_log.load", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(SETTINGS, copy, quiet())
    assert times(copy) == before
    with pytest.raises(KeyboardInterrupt):
        evaluate(changed(SETTINGS, "fit", epochs=9), copy, quiet())
    assert times(copy) == {}


def test_missing_evaluation_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics.json cannot be read .* run `valuestream-model evaluate` first"):
        load_evaluation(tmp_path)


def test_too_few_examples_of_a_label_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    few = changed(SETTINGS, "fit", class_min=10_000)
    with pytest.raises(ConfigError, match=r"train split has \d+ examples with churn = yes, expected at least 10000"):
        evaluate(few, tmp_path / "shop", quiet())
    assert times(tmp_path / "shop") == {}


# -- groups -----------------------------------------------------------------------------------------------


def settings_with_groups(path: Path, text: str) -> Settings:
    path.write_text(text, encoding="utf-8")
    return changed(SETTINGS, "data", groups=str(path))


def test_users_have_the_group_that_the_csv_names_and_no_model_sees_it(folder: Path, tmp_path: Path) -> None:
    names = load(SETTINGS.data).names
    text = "user,group\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names[:40]))
    settings = settings_with_groups(tmp_path / "groups.csv", text)
    copy = tmp_path / "shop"
    shutil.copytree(folder, copy)
    # No model sees the groups, so its scores are the same without them. Reusing them saves the training.
    portable = changed(settings, "data", groups="groups.csv")
    (copy / "settings.json").write_bytes(msgspec.json.encode({"settings": portable, "data_sha256": ""}))
    evaluation = evaluate(settings, copy, quiet())
    assert evaluation.groups == ["", "a", "b", "group"]
    assert evaluation.settings.data.groups == "groups.csv"
    assert evaluation.tasks == load_evaluation(folder).tasks
    for examples in load_scored_examples(copy):
        expected = [1 + user % 2 if user < 40 else 0 for user in examples.user.tolist()]
        assert examples.group.tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1,a\nu2\n", r"groups.csv: row 2 has not two columns, expected user, group"),
        ("u1,a,x\n", r"groups.csv: row 1 has not two columns, expected user, group"),
    ],
)
def test_groups_of_another_form_are_refused_by_their_row(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(settings_with_groups(tmp_path / "groups.csv", text), tmp_path / "shop", quiet())


def test_missing_groups_file_is_refused(tmp_path: Path) -> None:
    settings = changed(SETTINGS, "data", groups=str(tmp_path / "none.csv"))
    with pytest.raises(ConfigError, match=r"data.groups .*none.csv cannot be read .*; give a CSV of user, group"):
        evaluate(settings, tmp_path / "shop", quiet())
