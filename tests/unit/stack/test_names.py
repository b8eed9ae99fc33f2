"""One word for one thing: no two classes of the product share a name, and retired private words stay away."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

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


def classes() -> dict[str, list[str]]:
    """Lists the files in which each class of the product is defined."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(str(file.relative_to(ROOT)))
    return found


def test_no_two_classes_share_a_name() -> None:
    found = classes()
    assert len(found) > 100
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_retired_words_stay_away() -> None:
    found = classes()
    assert {name: found[name] for name in RETIRED & set(found)} == {}
