"""The measurement of an index over nodes runs, at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

from bench.nodes.run import main


def test_it_measures_each_contender_once(tmp_path: Path) -> None:
    arguments = ["--items", "300", "--seconds", "0.1", "--users", "5", "--folder", str(tmp_path)]
    assert main([*arguments, "--nodes", "2"]) == 0
    path = tmp_path / "300.json"
    known = json.loads(path.read_text())
    assert {*known} == {"Redis, 2 nodes", "usearch, in the process"}
    for figures in known.values():
        assert figures["recall"] > 0.95
        assert min(figures[name] for name in ("build_s", "p50_ms", "per_s", "restart_s")) > 0
    written = path.stat().st_mtime_ns
    assert main([*arguments, "--nodes", "2"]) == 0
    assert path.stat().st_mtime_ns == written, "what is finished is not measured again"
    assert [one.name for one in tmp_path.iterdir()] == ["300.json"], "nothing is left but the figures"
