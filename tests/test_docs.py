"""What Markdown says exists does exist: links, files, make targets, modules. And its lines fit on a screen."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.markdown import GENERATED, GENERATED_PARTS, PAGES, ROOT, formatted, hand_written, written_by_hand

LINE_CHARACTERS_MAX = 100
#: It tells of releases, whose files may have other names today.
OF_THE_PAST = "CHANGELOG.md"
PACKAGES = ("stream", "model_export", "tests")
RECORDS = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md"))
HEADINGS = ["Context", "Decision", "Alternatives rejected", "Consequences"]

every_page = pytest.mark.parametrize("page", PAGES)
every_hand_written_page = pytest.mark.parametrize("page", hand_written())
every_page_of_today = pytest.mark.parametrize("page", [page for page in PAGES if page != OF_THE_PAST])
every_record = pytest.mark.parametrize("record", RECORDS)


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    """The text without fenced blocks, whose lines are no headings and no links."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


def code_in(text: str) -> str:
    """Everything that is set as code: spans, fenced and indented blocks."""
    fenced = re.findall(r"^( *)```\w*\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    rest = without_code(text)
    indented = re.findall(r"^ {4,}(.*)$", rest, flags=re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", rest)
    return "\n".join([*(block for _, block in fenced), *indented, *(" ".join(span.split()) for span in spans)])


def anchors(text: str) -> set[str]:
    """The anchors that a heading gets on GitHub."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def python_files() -> list[str]:
    return ["/" + path.relative_to(ROOT).as_posix() for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


# What a page names ---------------------------------------------------------------------------------------


@every_page
def test_every_link_points_to_a_file_and_an_anchor_that_exist(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        name, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@every_page_of_today
def test_every_path_that_is_named_exists(page: str) -> None:
    missing = []
    for name, goes_on in re.findall(r"(?<![\w./-])((?:stream|model_export|tests)/[\w./*-]*)([$<{…]?)", text_of(page)):
        path = name.rpartition("/")[0] if goes_on else name.rstrip(".-")
        if not any(ROOT.glob(path)):
            missing.append(name)
    assert missing == []


@every_page_of_today
def test_every_python_file_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", text_of(page)))
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in python_files())} == set()


@every_page_of_today
def test_every_make_target_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"(?<![\w-])make ([a-z][a-z-]*)", code_in(text_of(page))))
    assert named <= make_targets()


@every_page_of_today
def test_every_module_that_is_named_as_a_command_exists(page: str) -> None:
    for module in re.findall(r"python -m ([\w.]+)", code_in(text_of(page))):
        if module.partition(".")[0] in PACKAGES:
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


# How a page is laid out ----------------------------------------------------------------------------------


@every_hand_written_page
def test_every_line_that_is_written_by_hand_fits(page: str) -> None:
    lines = [line for piece in written_by_hand(page, text_of(page)) for line in piece.splitlines()]
    assert [line for line in lines if len(line) > LINE_CHARACTERS_MAX] == []


@every_hand_written_page
def test_a_page_is_laid_out_as_mdformat_does(page: str) -> None:
    assert formatted(page, text_of(page)) == text_of(page), "run: python -m tests.markdown"


def test_the_pages_and_parts_that_commands_write_are_there() -> None:
    assert set(GENERATED) | set(GENERATED_PARTS) <= set(PAGES)
    for page in GENERATED_PARTS:
        assert len(written_by_hand(page, text_of(page))) > 1


# Decisions -----------------------------------------------------------------------------------------------


def title_and_status(record: str) -> tuple[str, str]:
    text = text_of(f"docs/decisions/{record}")
    title = re.match(r"# (\d{4}: .+)\n", text)
    status = re.search(r"^- \*\*Status:\*\* (\w+)", text, flags=re.MULTILINE)
    assert title
    assert status
    return title[1].replace(":", "", 1), status[1]


@every_record
def test_a_record_has_the_form_of_the_template(record: str) -> None:
    text = text_of(f"docs/decisions/{record}")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == HEADINGS
    assert re.search(r"^- \*\*Date:\*\* \d{4}-\d\d-\d\d", text, flags=re.MULTILINE)
    assert title_and_status(record)[0].startswith(record[:4])


def test_the_template_has_the_headings_of_a_record() -> None:
    assert re.findall(r"^## (.*)$", text_of("docs/decisions/template.md"), flags=re.MULTILINE) == HEADINGS


def test_the_index_lists_every_record_once_with_its_title_and_status() -> None:
    index = " ".join(text_of("docs/decisions/README.md").split())
    listed = re.findall(r"- \[([^\]]+)\]\((\d{4}[\w-]+\.md)\) \((\w+)\)\. [A-Z][^.]+\.", index)
    expected = [(*title_and_status(record), record) for record in RECORDS]
    assert [(title, status, Path(record).name) for title, record, status in listed] == expected
