"""Labelled texts: parts share no text, no instant and no user."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_export.text.labelled import Columns, LabelledTexts, read_labelled, split
from stream.errors import ConfigError
from tests.score.test_sentiment import write_reviews


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 60)), min_size=1, max_size=120))
def test_parts_share_no_instant_and_no_text_and_follow_each_other_in_time(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows)
    texts = LabelledTexts(
        [f"text {t}" for *_, t in rows], np.array([y for _, y, _ in rows]), np.array([float(k) for k, *_ in rows])
    )
    found = split(texts, 0)
    parts = (found.train, found.validation, found.test)
    assert sum(map(len, parts)) + found.repeats == len(texts)
    assert len({text for part in parts for text in part.texts}) == sum(map(len, parts))
    filled = [part.keys for part in parts if len(part)]
    assert all(before.max() < after.min() for before, after in itertools.pairwise(filled))


def test_each_user_is_in_one_part_only(tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "r.csv")
    found = split(read_labelled(path, Columns(user="user")), 5)
    users = dict(line.split(",")[::3] for line in path.read_text().splitlines())
    of_part = [{users[text] for text in part.texts} for part in (found.train, found.validation, found.test)]
    assert not of_part[0] & of_part[1] and not of_part[0] & of_part[2] and not of_part[1] & of_part[2]


@pytest.mark.parametrize("columns", [{}, {"time": "t", "user": "u"}])
def test_random_split_is_refused(columns: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="random split"):
        Columns(**columns)


def test_too_few_texts_of_a_class_are_counted_and_refused(tmp_path: Path) -> None:
    texts = read_labelled(write_reviews(tmp_path / "r.csv", n=60), Columns(time="time"))
    with pytest.raises(ConfigError, match="validation part has 3 negative, 3 neutral, 3 positive, expected at least 4"):
        split(texts, 4)


def test_stars_times_and_json_lines_are_read(tmp_path: Path) -> None:
    rows = [
        ("bad", 1, "2015-02-24 11:35:52 -0800"),
        ("so so", "3", "2015-02-24T19:35:51Z"),
        ("good", 5.0, "1424806550"),
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"body": t, "stars": s, "at": a}) + "\n" for t, s, a in rows))
    found = read_labelled(path, Columns("body", "stars", "at"))
    assert (found.texts, found.labels.tolist()) == (["good", "so so", "bad"], [2, 1, 0])
    assert found.keys.tolist() == [1424806550, 1424806551, 1424806552]
