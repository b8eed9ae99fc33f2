"""One word for one thing: no two classes of the product share a name, and retired private words stay away."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = (
    "contract",
    "training",
    "ensemble",
    "service",
    "feature_repo",
    "batch",
    "live",
    "deploy",
    "shortlist",
)
RETIRED = {"Room", "Kept", "Pace", "Whom", "Hurried", "Patience", "Line"}
PRIVATE = ("told", "kept", "room", "rooms", "whom", "pace", "hurried")
"""Words that say nothing of what a value is, where the field has a word that does."""


def classes() -> dict[str, list[str]]:
    """Lists the files in which each class of the product is defined."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(str(file.relative_to(ROOT)))
    return found


def named(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Lists what a module names, with the line: variables, arguments, attributes, functions and classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


def private_words(package: str) -> list[str]:
    """Lists where a package's identifiers, those of its modules included, are private words."""
    found: list[str] = []
    for file in sorted((ROOT / package).rglob("*.py")):
        place = file.relative_to(ROOT)
        found += [f"{place}: module {part}" for part in place.with_suffix("").parts if part in PRIVATE]
        found += [
            f"{place}:{line}: {name}"
            for name, line in named(ast.parse(file.read_text()))
            if name.lower() in PRIVATE
        ]
    return found


def test_no_two_classes_share_a_name() -> None:
    found = classes()
    assert len(found) > 100
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_retired_words_stay_away() -> None:
    found = classes()
    assert {name: found[name] for name in RETIRED & set(found)} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_identifier_is_a_private_word(package: str) -> None:
    found = private_words(package)
    assert not found, "private words: name each by what the value is\n" + "\n".join(found)


def test_each_kind_of_identifier_is_found() -> None:
    source = """
import json as told
class Whom: ...
def kept(room, *rooms, **pace):
    self.hurried = told = 1
    try: ...
    except ValueError as whom: ...
"""
    assert {name for name, _ in named(ast.parse(source))} >= {*PRIVATE, "Whom"}
