"""What the pages name is there: files, modules, commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = "batch|bench|contract|deploy|docs|ensemble|feature_repo|live|requirements|service|tests|training"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "bench/**/*.md", "deploy/**/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./*-]+)`")
MODULE = re.compile(rf"python -m ((?:{FOLDERS})[\w.]*)")
TARGET = re.compile(r"`make ([a-z-]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_module_and_command_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [path for path in PATH.findall(text) if not list(ROOT.glob(path.rstrip("/")))]
    missing += [name for name in MODULE.findall(text) if not _is_module(name)]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    missing += [f"make {target}" for target in TARGET.findall(text) if target not in targets]
    assert missing == []


def test_the_pages_are_found_and_the_patterns_find_what_they_name() -> None:
    everything = "\n".join(page.read_text() for page in PAGES)
    assert all(len(pattern.findall(everything)) > 10 for pattern in (LINK, PATH, MODULE, TARGET))


def test_the_glossary_holds_at_most_thirty_words() -> None:
    _, _, words = (ROOT / "docs" / "architecture.md").read_text().partition("| word | means |")
    rows = [line for line in words.splitlines() if line.startswith("| ")]
    assert 20 < len(rows) <= 30


def test_the_walk_of_one_request_is_told_in_at_most_twenty_five_files() -> None:
    _, _, table = (ROOT / "docs" / "architecture.md").read_text().partition("| | stop | does |")
    walk, _, _ = table.partition("\n\n")
    stops = [line for line in walk.splitlines() if re.match(r"\| \d+ \|", line)]
    assert 20 < len(stops) <= 25
    files = {link for stop in stops for link in LINK.findall(stop) if link.endswith(".py")}
    assert 20 < len(files) <= 25


def _is_module(name: str) -> bool:
    path = ROOT / name.rstrip(".").replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()
