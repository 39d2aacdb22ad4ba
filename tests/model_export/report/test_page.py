"""Page: it is one file that stands alone, with every measured number in it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from model_export.evaluation.evaluation_folder import load_evaluation
from model_export.report import write_report
from model_export.report.wording import with_interval
from tests.model_export.report.small_evaluation import SMALL, Reader, make, write_metrics


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


def test_page_is_small_and_well_formed_and_its_identifiers_are_unique(page: str) -> None:
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


def test_page_is_whole_without_value_groups_and_other_snapshots(tmp_path: Path) -> None:
    folder = make(tmp_path / "small", {"fused": 0.5}, SMALL, value=0.0)
    write_metrics(folder, msgspec.structs.replace(load_evaluation(folder), groups=[""]))
    text = Reader(write_report(folder).read_text(encoding="utf-8")).text
    assert "There is one snapshot" in text
    assert not [title for title in ("What users are worth", "Groups of users", "What the parts are") if title in text]
