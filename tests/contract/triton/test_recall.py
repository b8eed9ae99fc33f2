"""The breadth of the graph's search is measured, on a real index that is poor enough to need some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from contract.bundle import USER_VECTORS_FILE, Manifest, read_manifest, sha256
from contract.environment import RedisUrl
from contract.filters import Condition
from contract.keys import index_search_key
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.publish.index import build_index, drop_bundle, main
from ensemble.publish.recall import LADDER, Breadth, Exact, choose_breadth, measure
from ensemble.stores.index_watch import index_info
from ensemble.stores.vectors import MemoryVectorIndex, RedisVectorIndex
from tests.builders.triton import WIDTH, World, make_world

ITEMS, USERS, K = 3000, 60, 20
REACHABLE = 0.9
POOR = {"kind": "HNSW", "m": 4, "ef_construction": 8}


def graph_world(folder: Path, bundle: str = "graph", **index: str | int) -> World:
    """Makes a bundle whose index is a graph, with user vectors."""
    world = make_world(folder, items=ITEMS, bundle=bundle)
    vectors = np.random.default_rng(7).normal(size=(USERS, WIDTH)).astype(np.float32)
    np.save(folder / USER_VECTORS_FILE, vectors)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["index"] = index or POOR
    manifest["checksums"][USER_VECTORS_FILE] = sha256(folder / USER_VECTORS_FILE)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return graph_world(tmp_path / "graph")


@pytest.fixture
def manifest(world: World) -> Manifest:
    return read_manifest(world.folder)


def exact_of(world: World, k: int = K) -> Exact:
    bundle = LoadedBundle.open(world.folder)
    return Exact.of(bundle.item_ids, bundle.item_vectors, np.load(world.folder / USER_VECTORS_FILE), k)


def recall_at(redis: Redis, world: World, manifest: Manifest, ef: int) -> float:
    """Measures recall@K by sets of ids, on its own."""
    bundle, queries = LoadedBundle.open(world.folder), np.load(world.folder / USER_VECTORS_FILE)
    index = RedisVectorIndex(redis, manifest.bundle, manifest.filters, beyond=ef - K)
    found, _ = index.search(queries, [K] * USERS, [{}] * USERS, K)
    best = np.argsort(-(queries @ bundle.item_vectors.T), axis=1)[:, :K]
    hits = [
        len({*row.tolist()} & {*bundle.item_ids[near].tolist()})
        for row, near in zip(found, best, strict=True)
    ]
    return float(np.mean(hits)) / K


def test_the_smallest_breadth_that_surely_reaches_the_target_is_stored(
    redis: Redis, world: World, manifest: Manifest
) -> None:
    build_index(redis, world.folder, keep=2)
    lines: list[str] = []
    chosen = choose_breadth(redis, world.folder, manifest, K, REACHABLE, lines.append)
    assert chosen is not None
    assert chosen.recall == pytest.approx(recall_at(redis, world, manifest, chosen.ef))
    assert chosen.recall > chosen.at_least >= REACHABLE
    tried = [round(K * factor) for factor in LADDER]
    assert chosen.ef in tried[1:], "the index is poor enough that the first step is not enough"
    assert len(lines) == tried.index(chosen.ef) + 1
    assert "not enough" in lines[-2]
    assert RedisVectorIndex(redis, manifest.bundle, manifest.filters).beyond == chosen.ef - K


def test_what_serves_searches_as_widely_as_was_measured(
    redis: Redis, world: World, manifest: Manifest
) -> None:
    build_index(redis, world.folder, keep=2)
    choose_breadth(redis, world.folder, manifest, K, REACHABLE, lambda _: None)
    serving = RedisVectorIndex(redis, manifest.bundle, manifest.filters)
    served = measure(serving, exact_of(world), 0, REACHABLE)
    narrow = measure(RedisVectorIndex(redis, manifest.bundle, {}, beyond=0), exact_of(world), 0, REACHABLE)
    assert served.recall >= REACHABLE > narrow.recall


def test_filters_and_more_than_k_are_searched_too(redis: Redis, world: World, manifest: Manifest) -> None:
    build_index(redis, world.folder, keep=2)
    choose_breadth(redis, world.folder, manifest, K, REACHABLE, lambda _: None)
    index = RedisVectorIndex(redis, manifest.bundle, manifest.filters)
    query = np.ones((1, WIDTH), dtype=np.float32)
    ids, _ = index.search(query, [15 * K], [{}], 15 * K)
    assert len({*ids[0].tolist()} - {PAD_ID}) == 15 * K
    ids, _ = index.search(query, [K], [{"item_category": Condition(frozenset({"2"}))}], K)
    passing = {i for (view, i), row in world.rows.items() if row.get("item_category") == 2}
    assert len({*ids[0].tolist()}) == K
    assert {*ids[0].tolist()} <= passing


def test_what_was_measured_is_kept_until_the_target_or_k_changes(
    redis: Redis, world: World, manifest: Manifest
) -> None:
    build_index(redis, world.folder, keep=2)
    first = choose_breadth(redis, world.folder, manifest, K, REACHABLE, lambda _: None)
    lines: list[str] = []
    assert choose_breadth(redis, world.folder, manifest, K, REACHABLE, lines.append) == first
    assert len(lines) == 1
    lower = choose_breadth(redis, world.folder, manifest, K, 0.3, lambda _: None)
    assert first is not None
    assert lower is not None
    assert lower.ef < first.ef
    stored: Any = redis.get(index_search_key(manifest.bundle))
    assert Breadth.decode(stored) == lower


def test_an_unreachable_target_is_one_line_and_the_older_bundle_stays(
    redis: Redis,
    redis_url: RedisUrl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHORTLIST_REDIS_URL", redis_url.get_secret_value())
    monkeypatch.setenv("SHORTLIST_K", str(K))
    monkeypatch.setenv("SHORTLIST_HEAD_ITEMS", "0")
    world = graph_world(tmp_path / "graph", kind="HNSW", m=3, ef_construction=4)
    build_index(redis, make_world(tmp_path / "older", bundle="older").folder, keep=1)
    assert main(["--bundle", str(world.folder), "--keep", "1"]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "the widest search misses SHORTLIST_RECALL_TARGET: EF_RUNTIME 640" in error
    assert "raise SHORTLIST_HEAD_ITEMS" in error
    assert f"SHORTLIST_FLAT_UP_TO={ITEMS}" in error
    assert redis.get(index_search_key("graph")) is None
    assert int(index_info(redis, "older")["num_docs"]) == 60

    monkeypatch.setenv("SHORTLIST_RECALL_TARGET", "0.3")
    assert main(["--bundle", str(world.folder), "--keep", "1"]) == 0
    out = capsys.readouterr().out
    assert "graph: searched with EF_RUNTIME" in out
    assert out.endswith("graph: indexed already\n"), "the index itself was whole"


def test_exact_search_needs_no_breadth(redis: Redis, tmp_path: Path) -> None:
    world = graph_world(tmp_path / "flat", bundle="flat", kind="FLAT")
    build_index(redis, world.folder, keep=2)
    assert (
        choose_breadth(redis, world.folder, read_manifest(world.folder), K, REACHABLE, lambda _: None) is None
    )
    assert redis.get(index_search_key("flat")) is None


def test_a_dropped_bundle_leaves_no_breadth(redis: Redis, world: World, manifest: Manifest) -> None:
    build_index(redis, world.folder, keep=2)
    choose_breadth(redis, world.folder, manifest, K, REACHABLE, lambda _: None)
    drop_bundle(redis, manifest.bundle)
    assert not redis.keys("*:graph*")


def test_exact_search_itself_has_full_recall_and_any_of_equals_counts(world: World) -> None:
    exact = exact_of(world)
    bundle = LoadedBundle.open(world.folder)
    twin = MemoryVectorIndex(bundle.item_ids, bundle.item_vectors)
    assert measure(twin, exact, 0, 0.5).recall == 1.0
    vectors = np.ones((4, 2), dtype=np.float32)
    equal = Exact.of(np.array([-3, -1, 7, 9]), vectors, np.ones((1, 2), dtype=np.float32), 2)
    assert equal.recall(np.array([[9, -1]])).tolist() == [1.0]
    assert equal.recall(np.array([[9, PAD_ID]])).tolist() == [0.5]
