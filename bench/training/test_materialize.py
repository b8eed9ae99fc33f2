"""What bringing features to Redis takes: all of them, after one item changed, and after nothing did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.environment import RedisUrl
from feature_repo.materialize import materialize
from tests.builders.datasets import quiet
from tests.builders.redis_server import redis_server
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.data.sources.synthetic import Size
from training.features.tables import write_features

WORLD = Size(users=40_000, items=10_000, days=30, interactions=400_000)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisUrl]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder: Path = tmp_path_factory.mktemp("world")
    return catalog.prepare("synthetic", folder, folder / "var", size=WORLD, say=quiet)


@pytest.mark.benchmark(group="materialize")
@pytest.mark.parametrize("what", ["everything", "one item changed", "nothing changed"])
def test_materialize(benchmark: Any, world: Prepared, url: RedisUrl, what: str) -> None:
    """Four views of 40,000 users and 10,000 items; in this order, each goes on from the last."""
    if what == "one item changed":
        items = world.items.copy()
        column = items.select_dtypes("number").columns[-1]
        items.loc[items.index[0], column] += 1
        world = replace(world, items=items)
    if what != "nothing changed":
        write_features(world, "synthetic")
    arrived = benchmark.pedantic(materialize, (world.folder, url), {"say": quiet}, rounds=1, iterations=1)
    written = sum(arrived.written.values())
    assert sum(arrived.rows.values()) > 95_000
    assert {"everything": written > 95_000, "one item changed": written == 1}.get(what, written == 0)
    benchmark.extra_info.update(rows=sum(arrived.rows.values()), written=written)
