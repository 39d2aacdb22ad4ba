"""Compare: the baseline learns, and the comparison reads as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_export.text.compare import Compared, baseline, markdown
from model_export.text.labelled import Columns, Split, read_labelled, split
from model_export.text.sentiment import text_metrics


def test_comparison_reads_as_a_table(parts: Split) -> None:
    metrics = text_metrics(baseline(parts), parts.test.labels)
    assert metrics["macro_f1"] > 0.9
    header, rule, row = markdown([Compared("TF-IDF", 210, metrics, (0.9, 1.0), 3.2)]).splitlines()
    assert header.count("|") == rule.count("|") == row.count("|") and "| 210 |" in row


@pytest.mark.data
def test_tweets_split_by_time_and_tfidf_reads_them(data_dir: Path) -> None:
    columns = Columns("text", "airline_sentiment", time="tweet_created")
    found = split(read_labelled(data_dir / "airline_tweets_sentiment.csv.gz", columns), 20)
    assert [len(found.train), len(found.validation), len(found.test), found.repeats] == [10_098, 2_164, 2_165, 213]
    recent = Split(found.train.take(np.arange(8_000, 10_098)), found.validation, found.test, 0)
    assert text_metrics(baseline(recent), found.test.labels)["macro_f1"] > 0.6
