"""Prepare: examples are made once and kept, and made anew when anything that they depend on has changed."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from model_export.data.dataset import Dataset
from model_export.data.examples import Examples
from model_export.data.labels import head_names
from model_export.data.prepare import check_enough, counts_table, prepare
from model_export.data.splits import SPLITS
from model_export.settings import Settings
from stream.errors import ConfigError
from tests.model_export.data.shop_history import LABELS, SNAPSHOTS, shoppers
from tests.model_export.small import SHOP, changed, data_set


def quiet() -> Console:
    return Console(quiet=True)


def recording() -> Console:
    return Console(file=io.StringIO(), width=200)


def output_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def settings_for(path: Path) -> Settings:
    return msgspec.structs.replace(changed(SHOP, "data", source=str(path)), labels=LABELS, snapshots=SNAPSHOTS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([*map(msgspec.json.encode, shoppers(1)), b'{"type":"track","userId":"u1"}']) + b"\n")
    return path


def same(one: Dataset, other: Dataset) -> bool:
    parts = [(getattr(one, split), getattr(other, split)) for split in SPLITS]
    arrays = [(getattr(a, f.name), getattr(b, f.name)) for a, b in parts for f in fields(Examples)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


def test_kept_examples_equal_those_that_were_made_and_nothing_is_read_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(settings_for(file), tmp_path / "dataset", quiet())
    monkeypatch.setattr("model_export.data.event_log.load", lambda _: pytest.fail("the data was read again"))
    kept = prepare(settings_for(file), tmp_path / "dataset", quiet())
    assert same(made, kept)
    assert (made.names, made.span, made.categories) == (kept.names, kept.span, kept.categories)
    assert made.left_out == kept.left_out
    assert made.dropped == kept.dropped == {"timestamp": 1}
    assert made.left_out["censored"] > 0


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("snapshots", {"every_days": 5.0}),
        ("snapshots", {"at_event": 0.2}),
        ("labels", {"churn_days": 4.0}),
        ("data", {"currency": "EUR"}),
    ],
)
def test_examples_are_made_anew_when_the_settings_they_depend_on_changed(
    table: str, values: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    folder, first = tmp_path / "dataset", settings_for(file)
    before = prepare(first, folder, quiet())
    console = recording()
    after = prepare(changed(first, table, **values), folder, console)
    assert "examples are those kept" not in output_of(console)
    fresh = prepare(changed(first, table, **values), tmp_path / "other", quiet())
    assert same(after, fresh)
    assert table == "data" or not same(before, after)


def test_examples_are_made_anew_when_the_file_changed(file: Path, tmp_path: Path) -> None:
    before = prepare(settings_for(file), tmp_path / "dataset", quiet())
    file.write_bytes(b"\n".join(map(msgspec.json.encode, shoppers(2))) + b"\n")
    after = prepare(settings_for(file), tmp_path / "dataset", quiet())
    assert not same(before, after)
    assert same(after, prepare(settings_for(file), tmp_path / "other", quiet()))


def test_examples_are_kept_when_only_the_training_changed(file: Path, tmp_path: Path) -> None:
    prepare(settings_for(file), tmp_path / "dataset", quiet())
    console = recording()
    prepare(changed(settings_for(file), "fit", epochs=9), tmp_path / "dataset", console)
    assert "examples are those kept" in output_of(console)


@pytest.mark.parametrize("name", ["dataset.json", "recent.safetensors"])
def test_a_broken_or_missing_part_is_made_anew(name: str, file: Path, tmp_path: Path) -> None:
    made = prepare(settings_for(file), tmp_path / "dataset", quiet())
    (tmp_path / "dataset" / name).unlink()
    if name == "dataset.json":
        (tmp_path / "dataset" / name).write_text("{")
    assert same(made, prepare(settings_for(file), tmp_path / "dataset", quiet()))


def test_a_folder_that_is_not_ours_is_left_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(ConfigError, match=r"mine exists and holds no dataset.json, so it is not replaced"):
        prepare(settings_for(file), tmp_path / "mine", quiet())
    assert (tmp_path / "mine" / "letter").read_text() == "dear"


def test_counts_are_shown_by_split_with_the_examples_left_out(file: Path, tmp_path: Path) -> None:
    examples = prepare(settings_for(file), tmp_path / "dataset", quiet())
    console = recording()
    console.print(counts_table(examples, head_names(LABELS)))
    shown = output_of(console)
    for split in SPLITS:
        row = next(line for line in shown.splitlines() if f" {split} " in line)
        assert f"{len(getattr(examples, split)):,}" in row
        assert f"{getattr(examples, split).churn.mean():.1%}" in row
    assert f"{examples.left_out['censored']:,} censored" in shown
    assert "1 dropped: timestamp" in shown


@pytest.mark.parametrize("split", SPLITS)
def test_too_few_of_an_outcome_are_refused_with_the_split_and_both_numbers(split: str) -> None:
    examples, names = data_set(300, longest=8), head_names(LABELS)
    check_enough(examples, names, 20)
    part = getattr(examples, split)
    purchase = part.purchase.copy()
    buyers = np.flatnonzero(purchase[:, 1])
    purchase[buyers[3:], 1] = 0
    fewer = replace(examples, **{split: replace(part, purchase=purchase)})
    expected = f"{split} split has 3 examples with purchase_8d = yes, expected at least 20"
    with pytest.raises(ConfigError, match=expected):
        check_enough(fewer, names, 20)
    check_enough(fewer, names, 3)
    all_buy = replace(examples, **{split: replace(part, purchase=np.ones_like(purchase))})
    with pytest.raises(ConfigError, match=f"{split} split has 0 examples with purchase_3d = no, expected at least 1"):
        check_enough(all_buy, names, 1)
