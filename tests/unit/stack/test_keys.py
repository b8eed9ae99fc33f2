"""Every key of Redis is spelled in `contract/keys.py`, Feast's in `contract/feast.py`, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PRODUCT = (
    "batch",
    "bench",
    "contract",
    "deploy",
    "ensemble",
    "feature_repo",
    "live",
    "service",
    "shortlist",
    "training",
)
SPELLED_IN = (ROOT / "contract/keys.py", ROOT / "contract/feast.py")
BEGIN = re.compile(r"[a-z_]+:")


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Gives a file's texts and bytes with their lines: parts of f-strings too, docstrings not."""
    tree = ast.parse(file.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in said:
            if isinstance(node.value, bytes):
                yield node.lineno, node.value.decode("latin-1")
            elif isinstance(node.value, str):
                yield node.lineno, node.value


def test_every_key_is_spelled_once() -> None:
    begins = [begin[0] for file in SPELLED_IN for _, text in texts(file) if (begin := BEGIN.match(text))]
    assert {"seen:", "slate:", "item_vector:", "batch_lock:", "materialized:", "_ts:"} <= set(begins)
    assert len(begins) == len(set(begins))
    key = re.compile(rf"({'|'.join(begins)})(\S|$)")
    elsewhere = [
        f"{file.relative_to(ROOT)}:{line}: {text!r}"
        for folder in PRODUCT
        for file in (ROOT / folder).rglob("*.py")
        if file not in SPELLED_IN
        for line, text in texts(file)
        if key.match(text)
    ]
    assert not elsewhere


def test_feasts_fields_are_hashed_in_one_place() -> None:
    hashing = {
        str(file.relative_to(ROOT))
        for folder in PRODUCT
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"^(import|from) mmh3", file.read_text(), re.MULTILINE)
    }
    assert hashing == {"contract/feast.py"}
