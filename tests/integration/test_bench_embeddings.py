"""The benchmark of embeddings beyond one memory runs, at a size of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.embeddings import run


def test_it_measures_every_level_and_leaves_nothing_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "--users 20000 --seconds 0.1 --batches 20 --only policies lookups --folder"
    monkeypatch.setattr("sys.argv", ["run", *given.split(), str(tmp_path)])
    assert run.main() == 0
    (record,) = (tmp_path / "records").glob("*.json")
    rows = {row["name"]: row["figures"] for row in json.loads(record.read_text())}
    for name in ("all in memory", "cache, disk", "cache, Redis, disk"):
        assert rows[f"{name}, 90% wanted, 100 rows"]["p99_ms"] > 0
    assert 0.8 < rows["cache, disk, 90% wanted, 100 rows"]["hit_rate"] < 0.99
    assert not (tmp_path / "rows.npy").exists()
    assert not (tmp_path / "disk").exists()
