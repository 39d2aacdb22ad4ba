"""Tables: a file that cannot be used is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.text.labelled import Columns, read_labelled
from stream.errors import ConfigError
from tests.score.test_sentiment import write_reviews


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "text,label,time\nhello,happy,1\n", "line 2: label is 'happy', expected negative"),
        ("r.csv", "text,label,time\nhello,5,soon\n", "line 2: time is 'soon'"),
        ("r.csv", "text,label,time\nhello,5,\n", "line 2: column 'time' is empty"),
        ("r.csv", "body,label,time\nhello,5,1\n", "no column 'text', found body, label, time"),
        ("r.jsonl", '{"text": "a"\n', "line 1: found"),
        ("r.jsonl", '{"body": "a"}\n', "line 1: none of text, label, time is there, found body"),
        ("r.csv", "text,label,time\n\xff,5,1\n", "expected UTF-8"),
        ("r.csv.gz", "no gzip", "cannot be read"),
        ("r.xlsx", "", "of another kind"),
    ],
)
def test_file_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_labelled(tmp_path / name, Columns(time="time"))


def test_file_with_too_many_rows_is_refused_and_not_cut(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 10 rows"):
        read_labelled(write_reviews(tmp_path / "r.csv", n=11), Columns(time="time"), rows_max=10)
