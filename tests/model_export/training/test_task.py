"""Task: the classes of the next-category head are the categories that come next most often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model_export.training.task import frequent_categories
from tests.model_export.small import examples


def test_frequent_categories_come_next_most_often_and_never_include_none() -> None:
    rows = replace(examples(10), category=np.array([0, 0, 0, 0, 9, 9, 9, 4, 4, 7], np.uint16))
    assert frequent_categories(rows, 2).tolist() == [9, 4]
    assert frequent_categories(rows, 9).tolist() == [9, 4, 7]
