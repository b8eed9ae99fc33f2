"""What `make materialize` takes, Feast's own processes included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feature_repo.materialize import materialize
from tests.builders.datasets import quiet
from tests.builders.redis_server import redis_server
from training.data.sources import catalog
from training.data.sources.synthetic import Size

WORLD = Size(users=40_000, items=10_000, days=30, interactions=400_000)


@pytest.mark.benchmark(group="materialize")
def test_100k_rows(benchmark: Any, tmp_path: Path) -> None:
    """Four views of 40,000 users and 10,000 items: make the sources, apply, load, write seen, count."""
    prepared = catalog.prepare("synthetic", tmp_path, tmp_path / "var", size=WORLD, say=quiet)
    with redis_server(tmp_path) as address:
        arrived = benchmark.pedantic(
            materialize, (prepared, address), {"say": quiet, "is_quiet": True}, rounds=1, iterations=1
        )
    rows = sum(arrived.rows.values())
    assert 95_000 < rows < 100_000
    benchmark.extra_info.update(rows=rows, rows_per_s=round(rows / benchmark.stats["mean"]))
