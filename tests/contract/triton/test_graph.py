"""An index that the model process searches itself: built by the export, mapped, kept up with what changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from contract.bundle import USER_VECTORS_FILE, BundleError, IndexSpec, sha256
from contract.filters import Wanted, check_filters
from contract.keys import index_name, item_card_key, item_vector_key
from contract.live_catalogue import TAKE_OUT
from contract.slates import Degradation, degradations
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.publish import nodes as nodes_module
from ensemble.publish.export import export
from ensemble.publish.nodes import main as move_nodes
from ensemble.run.recommender import Recommender, redis_stores
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.exact import ExactVectorIndex
from ensemble.stores.graph import (
    EXPORTED,
    GRAPH_FACTS_FILE,
    GRAPH_FILE,
    GraphFacts,
    GraphVectorIndex,
    build_graph,
    open_graph,
)
from tests.builders.catalogue import ask_for, make_catalogue, put_items
from tests.builders.live import drain
from tests.builders.site import Site
from tests.builders.triton import WIDTH, World, make_request, make_settings, make_world, memory_index
from tests.contract.triton.test_live_catalogue import NEW, ROW

ITEMS = 1500


def large(world: World) -> World:
    """Says of a bundle that its catalogue is large, and gives it users to measure by."""
    users = np.random.default_rng(3).normal(size=(40, WIDTH)).astype(np.float32)
    np.save(world.folder / USER_VECTORS_FILE, users)
    path = world.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["index"] = IndexSpec(kind="HNSW").model_dump()
    manifest["checksums"][USER_VECTORS_FILE] = sha256(world.folder / USER_VECTORS_FILE)
    path.write_text(json.dumps(manifest))
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return large(make_world(tmp_path_factory.mktemp("graph") / "bundle", items=ITEMS))


@pytest.fixture(scope="module")
def bundle(world: World) -> LoadedBundle:
    (world.folder.parent / EXPORTED).mkdir()
    vectors = np.load(world.folder / "item_vectors.npy")
    build_graph(vectors, world.folder.parent / EXPORTED / GRAPH_FILE, 16, 200, threads=1)
    return LoadedBundle.open(world.folder)


def index_of(bundle: LoadedBundle, exact_up_to: int = 0) -> GraphVectorIndex:
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    graph = open_graph(bundle.folder.parent / EXPORTED / GRAPH_FILE)
    return GraphVectorIndex(graph, 100, catalogue, lambda: bundle.attributes, exact_up_to=exact_up_to)


def test_it_finds_nearly_all_of_what_is_nearest(bundle: LoadedBundle) -> None:
    users = np.random.default_rng(1).normal(size=(30, WIDTH)).astype(np.float32)
    asked: Any = (users, [20] * 30, [{}] * 30, 25)
    ids, scores = index_of(bundle).search(*asked)
    exact, expected = ExactVectorIndex(bundle.item_ids, bundle.item_vectors).search(*asked)
    assert np.mean([len({*a} & {*b}) / 21 for a, b in zip(ids, exact, strict=True)]) > 0.97
    np.testing.assert_allclose(scores[:, 0], expected[:, 0], atol=1e-6)
    alone, _ = index_of(bundle).search(users[:1], [20], [{}], 25)
    np.testing.assert_array_equal(alone[0], ids[0])


@pytest.mark.parametrize("exact_up_to", [0, 100, ITEMS])
@pytest.mark.parametrize(
    "wanted",
    [
        {"item_category": [1, 2, 3]},
        {"item_category": {"not": [1]}},
        {"item_price": {"lt": 1.0}},
        {"item_tags": [4], "item_brand": ["acme"]},
        {"item_category": [77]},
    ],
)
def test_what_it_gives_passes_the_filters_and_is_nearest(
    bundle: LoadedBundle, world: World, wanted: Wanted, exact_up_to: int
) -> None:
    filters = [check_filters(wanted, bundle.manifest.filters)] * 4
    users = np.random.default_rng(2).normal(size=(4, WIDTH)).astype(np.float32)
    asked: Any = (users, [10] * 4, filters, 12)
    found, _ = index_of(bundle, exact_up_to).search(*asked)
    expected, _ = memory_index(world, bundle).search(*asked)
    every, _ = memory_index(world, bundle).search(users, [ITEMS] * 4, filters, ITEMS)
    for row in range(4):
        assert {*found[row].tolist()} <= {*every[row].tolist(), PAD_ID}
        assert (found[row] != PAD_ID).sum() == (expected[row] != PAD_ID).sum()
    if exact_up_to == ITEMS:
        np.testing.assert_array_equal(found, expected)
    overlap = [len({*a} & {*b}) / len({*b}) for a, b in zip(found, expected, strict=True)]
    assert np.mean(overlap) > 0.9


@pytest.fixture
def process_site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose bundle is searched in the process."""
    monkeypatch.setenv("SHORTLIST_INDEX_ENGINE", "usearch")
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(site.var))
    monkeypatch.setattr(nodes_module, "GRACE_S", 0.0)
    return site


def serving(site: Site, folder: Path, **changed: Any) -> Recommender:
    """The chain of a bundle in a folder, which searches itself."""
    defaults = {"redis_url": site.url, "redis_timeout_ms": 2000, "head_items": 0, "index_engine": "usearch"}
    settings = make_settings(var_dir=site.var, **defaults, **changed)
    bundle = LoadedBundle.open(folder)
    recommender = Recommender(bundle, redis_stores(bundle, settings), settings)
    recommender.stores.items.load()
    return recommender


def ask(recommender: Recommender, **request: Any) -> set[int]:
    assert recommender.stores.live is not None
    recommender.stores.live.look(recommender.renew)
    answer: Any = recommender.answer([make_request(101, **request)])[0]
    assert Degradation.PARTIAL_INDEX not in degradations(int(answer["degraded"][0, 0]))
    return {one for one in answer["retrieved_ids"][0].tolist() if one != PAD_ID}


def test_the_export_builds_it_and_redis_keeps_no_vector(
    process_site: Site, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    site = process_site
    newer = large(site.trained(site.old, "newer"))
    site.promote("newer")
    assert site.export() == 0
    said = capsys.readouterr().out
    assert "newer: 60 items in a graph in" in said
    assert "newer: searched in the process with EF_RUNTIME 10: recall@10 " in said
    key = item_vector_key("newer", newer.item_ids[3])
    assert redis.hget(key, "item_category")
    assert not redis.hexists(key, "vector")
    assert redis.get(item_card_key("newer", newer.item_ids[3]))
    assert {name.decode() for name in redis.execute_command("FT._LIST")} == {index_name("old")}
    assert site.export() == 0
    assert "in a graph in" not in capsys.readouterr().out, "what is built is known to be"
    own = make_settings(index_engine="usearch", var_dir=site.var)
    target = export(newer.folder, site.var / "models", own)
    assert (target / "1" / EXPORTED / GRAPH_FILE).is_file()
    of_bundle, before = ask(serving(site, newer.folder)), redis.info("commandstats").get("cmdstat_FT.SEARCH")
    shutil.rmtree(site.var / "graphs")
    assert ask(serving(site, target / "1" / "bundle")) == of_bundle, "the export can be moved"
    assert redis.info("commandstats").get("cmdstat_FT.SEARCH") == before


def test_a_bundle_without_its_graph_is_refused_with_the_remedy(process_site: Site) -> None:
    newer = large(process_site.trained(process_site.old, "newer"))
    with pytest.raises(BundleError, match=r"newer: has no item_graph.usearch of .*; run `make export`"):
        serving(process_site, newer.folder)
    made = process_site.var / "graphs" / "newer"
    made.mkdir(parents=True)
    build_graph(np.load(newer.folder / "item_vectors.npy"), made / GRAPH_FILE, 8, 50, threads=1)
    GraphFacts("of others", 60, 10).write(made)
    with pytest.raises(BundleError, match="has no item_graph"):
        serving(process_site, newer.folder)
    (made / "damaged").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"damaged: .*; delete it and run `make export`"):
        open_graph(made / "damaged")


def test_items_that_come_change_and_go_are_followed(process_site: Site, redis: Redis) -> None:
    site = process_site
    newer, known = large(site.trained(site.old, "newer")), site.old.item_ids[7]
    site.promote("newer")
    assert site.export() == 0
    consumer, _ = make_catalogue(redis, site.old.dataset, site.var)
    recommender, brand = serving(site, newer.folder), {"item_brand": ["new brand"]}
    assert ask(recommender, filters=brand) == set()
    put_items(redis, site.old.dataset, ROW, {**ROW, "item_id": known})
    drain(consumer)
    assert ask(recommender, filters=brand) == {NEW, known}
    everything = {"max_overfetch": 90, "max_seen": 90}
    assert NEW in ask(serving(site, newer.folder, **everything), n=60), "and without a filter"
    put_items(redis, site.old.dataset, {**ROW, "item_brand": "other"})
    ask_for(redis, site.old.dataset, TAKE_OUT, str(known))
    drain(consumer)
    assert ask(recommender, filters={"item_brand": ["other"]}) == {NEW}
    (answer,) = recommender.answer([make_request(101, n=60, filters=brand)])
    assert known not in np.asarray(answer["item_ids"])  # type: ignore[index]


def test_the_vectors_leave_redis_and_come_back_by_a_command(
    process_site: Site, redis: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site, key = process_site, item_vector_key("old", process_site.old.item_ids[3])
    assert site.export() == 0
    assert redis.hexists(key, "vector"), "what serves from Redis goes on"
    assert move_nodes([]) == 0
    assert "old: on no node; 0 of 60 items moved" in capsys.readouterr().out
    assert not redis.hexists(key, "vector")
    assert redis.hget(key, "item_category")
    assert redis.execute_command("FT._LIST") == []
    assert len(ask(serving(site, site.old.folder))) > 5, "of a small catalogue every item is compared"
    monkeypatch.delenv("SHORTLIST_INDEX_ENGINE")
    assert site.export() == 1
    assert "old: lies on no node, and SHORTLIST_INDEX_NODES names" in capsys.readouterr().err
    with site.serving(site.old) as recommender:
        refused: Any = recommender.answer([make_request(101, filters={"item_category": [1]})])[0]
        assert "run `make nodes`, or set SHORTLIST_INDEX_ENGINE=usearch" in str(refused)
    assert move_nodes([]) == 0
    assert redis.hexists(key, "vector")
    assert site.export() == 0
    large(site.old)
    monkeypatch.setenv("SHORTLIST_INDEX_ENGINE", "usearch")
    assert move_nodes([]) == 1
    assert "old: has no graph in a file; run `make export` for it first" in capsys.readouterr().err


def test_a_redis_that_evicts_keys_marks_its_answers_too(
    process_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = serving(process_site, process_site.old.folder)
    watch: Any = recommender.stores.watch
    watch.look()
    assert recommender.stores.vectors.is_whole
    assert (watch.share, watch.found, watch.away) == (1.0, 60, ())
    info = {"maxmemory_policy": "allkeys-lru", "evicted_keys": 3}
    monkeypatch.setattr(watch.redis, "info", lambda *_: info)
    watch.look()
    assert not recommender.stores.vectors.is_whole


def test_a_graph_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, WIDTH)).astype(np.float32)
    build_graph(vectors, tmp_path / GRAPH_FILE, 8, 50, threads=1)
    before = (tmp_path / GRAPH_FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    rename: Callable[..., Any] = Path.rename
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        build_graph(vectors[:10], tmp_path / GRAPH_FILE, 8, 50, threads=1)
    monkeypatch.setattr(Path, "rename", rename)
    assert (tmp_path / GRAPH_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [GRAPH_FILE]
    assert GraphFacts.found(tmp_path, "of these") is None
    GraphFacts("of these", 30, 5).write(tmp_path)
    assert GraphFacts.found(tmp_path, "of these") == GraphFacts("of these", 30, 5)
    (tmp_path / GRAPH_FACTS_FILE).write_text("{")
    assert GraphFacts.found(tmp_path, "of these") is None
