"""The measurement of an index over nodes: a table of what was measured, between the page's marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.nodes.report import BEGIN, END, publish


def test_what_was_measured_becomes_a_table_on_the_page(tmp_path: Path) -> None:
    figures = {"build_s": 12.34, "recall": 0.98765, "per_s": 1234.5, "restart_s": 0.01}
    (tmp_path / "3000.json").write_text(json.dumps({"usearch": figures, "Redis, 1 node": {"build_s": 50}}))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    publish(tmp_path, page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n`python -m bench.nodes.run` on ")
    assert "| 3,000 items x 64 | Redis, 1 node | usearch |" in text
    assert "| build, s | 50 | 12.34 |" in text
    assert "| recall@100 |  | 0.9877 |" in text
    assert text.endswith(f"\n{END}\nafter\n")
    page.write_text("nothing")
    with pytest.raises(ValueError, match="are missing; put them where the tables go"):
        publish(tmp_path, page)
