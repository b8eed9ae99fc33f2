"""Building a bundle's index: it counts only once it is whole, and never harms the one that serves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from contract.bundle import BundleError, IndexSpec, read_manifest, sha256
from contract.environment import RedisUrl
from contract.keys import decode_card, item_card_key
from ensemble.publish import parts
from ensemble.publish.index import build_index, drop_bundle, main
from ensemble.publish.parts import IndexBuildError, create_command
from ensemble.stores.client import connect
from ensemble.stores.index_watch import index_info
from tests.builders.search_redis import running_redis
from tests.builders.triton import World, make_world


@pytest.fixture
def worlds(tmp_path: Path) -> list[World]:
    """Gives three bundles of one data set, oldest first."""
    return [make_world(tmp_path / name, items=20, bundle=name) for name in ("one", "two", "three")]


def run(redis: Redis, *command: str | int) -> Any:
    execute: Any = redis.execute_command
    return execute(*command)


def indexes(redis: Redis) -> set[str]:
    return {name.decode() for name in run(redis, "FT._LIST")}


def spoil(world: World) -> None:
    """Makes a bundle whose vectors are too narrow for what its manifest says, with right checksums."""
    np.save(world.folder / "item_vectors.npy", np.ones((20, 3), dtype=np.float32))
    path = world.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["checksums"]["item_vectors.npy"] = sha256(world.folder / "item_vectors.npy")
    path.write_text(json.dumps(manifest))


def indexed(redis: Redis, bundle: str) -> int:
    """Counts the items in a bundle's index."""
    return int(index_info(redis, bundle)["num_docs"])


def test_it_writes_vectors_and_cards_and_every_item_is_indexed(redis: Redis, worlds: list[World]) -> None:
    assert build_index(redis, worlds[0].folder, keep=2)
    assert indexed(redis, "one") == 20
    item_id = worlds[0].item_ids[3]
    card = decode_card(run(redis, "GET", item_card_key("one", item_id)))
    assert card == {"item_name": f"item {item_id}"}
    vector = np.frombuffer(run(redis, "HGET", f"item_vector:one:{item_id}", "vector"), dtype="<f4")
    np.testing.assert_array_equal(vector, np.load(worlds[0].folder / "item_vectors.npy")[3])


def test_building_it_again_changes_nothing(redis: Redis, worlds: list[World]) -> None:
    build_index(redis, worlds[0].folder, keep=2)
    assert not build_index(redis, worlds[0].folder, keep=2)


def test_a_flushed_redis_is_filled_again(redis: Redis, worlds: list[World]) -> None:
    build_index(redis, worlds[0].folder, keep=2)
    redis.flushall()
    assert build_index(redis, worlds[0].folder, keep=2)


def test_an_index_of_an_earlier_version_is_built_again(redis: Redis, worlds: list[World]) -> None:
    build_index(redis, worlds[0].folder, keep=2)
    earlier = [*create_command(read_manifest(worlds[0].folder))]
    price = earlier.index("number:item_price")
    assert earlier[price + 3] == "NUMERIC"
    del earlier[price : price + 4]  # as an earlier version declared a float32 column: tags alone
    run(redis, "FT.DROPINDEX", "item_vectors:one")
    run(redis, *earlier)
    assert build_index(redis, worlds[0].folder, keep=2)
    assert not build_index(redis, worlds[0].folder, keep=2)


class Clock:
    """Stands for the clock: only sleeping takes time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return 1.0 + self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def looks_of(monkeypatch: pytest.MonkeyPatch, *found: int) -> list[dict[str, int]]:
    """Stands for what FT.INFO says look after look; indexing is over with the last."""
    looks = [{"num_docs": count, "indexing": 1} for count in found]
    looks[-1]["indexing"] = 0
    monkeypatch.setattr(parts, "index_info", lambda *which: index_info(*which) | looks.pop(0))
    return looks


def test_a_redis_that_still_indexes_after_a_restart_is_waited_for(
    redis: Redis, worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(redis, worlds[0].folder, keep=2)
    looks = looks_of(monkeypatch, 5, 12, 20)
    assert not build_index(redis, worlds[0].folder, keep=2), "nothing was written again"
    assert not looks


def test_an_index_that_gets_on_is_waited_for_and_one_that_stands_still_is_not(
    redis: Redis, worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "time", Clock())
    assert looks_of(monkeypatch, 2, 4, 6, 8, 10, 20)
    assert build_index(redis, worlds[0].folder, keep=2, patience_s=0.08), "in steps shorter than the patience"
    looks_of(monkeypatch, *([7] * 100), 20)
    with pytest.raises(IndexBuildError, match=r"item_vectors:two: 7 of 20 items were indexed, 0 failed"):
        build_index(redis, worlds[1].folder, keep=2, patience_s=0.08)


def test_lost_vectors_are_noticed(redis: Redis, worlds: list[World]) -> None:
    build_index(redis, worlds[0].folder, keep=2)
    redis.delete(f"item_vector:one:{worlds[0].item_ids[0]}")
    assert build_index(redis, worlds[0].folder, keep=2)
    assert indexed(redis, "one") == 20


def test_only_the_newest_bundles_stay(redis: Redis, worlds: list[World]) -> None:
    for world in worlds:
        build_index(redis, world.folder, keep=2)
    assert indexes(redis) == {"item_vectors:two", "item_vectors:three"}
    assert not redis.keys("item_vector:one:*")
    assert not redis.keys("item_card:one:*")
    assert len(redis.keys("item_vector:two:*")) == 20


def test_a_failed_build_leaves_the_old_one_serving(redis: Redis, worlds: list[World]) -> None:
    build_index(redis, worlds[0].folder, keep=1)
    spoil(worlds[1])
    with pytest.raises(IndexBuildError, match=r"item_vectors:two: 0 of 20 items were indexed, 20 failed"):
        build_index(redis, worlds[1].folder, keep=1)
    assert indexes(redis) == {"item_vectors:one"}
    assert indexed(redis, "one") == 20
    assert not redis.keys("*:two:*")


def test_a_changed_bundle_is_refused_before_anything_is_written(redis: Redis, worlds: list[World]) -> None:
    (worlds[0].folder / "items.parquet").write_bytes(b"else")
    with pytest.raises(BundleError, match=r"items.parquet: its checksum differs"):
        build_index(redis, worlds[0].folder, keep=2)
    assert not redis.keys("*")


def test_a_large_catalogue_gets_a_graph(redis: Redis, worlds: list[World]) -> None:
    manifest = read_manifest(worlds[0].folder)
    build_index(redis, worlds[0].folder, keep=2)
    drop = manifest.model_copy(update={"index": IndexSpec(kind="HNSW", ef_runtime=123)})
    run(redis, "FT.DROPINDEX", "item_vectors:one")
    run(redis, *create_command(drop))
    assert b"HNSW" in str(run(redis, "FT.INFO", "item_vectors:one")).encode()


def test_dropping_what_is_not_there_is_no_error(redis: Redis) -> None:
    drop_bundle(redis, "never")


def test_a_redis_without_the_search_module_is_one_line(
    tmp_path: Path, worlds: list[World], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_redis(tmp_path, with_search=False) as url:
        monkeypatch.setenv("SHORTLIST_REDIS_URL", url.get_secret_value())
        assert main(["--bundle", str(worlds[0].folder)]) == 1
        error = capsys.readouterr().err
        assert "start Redis with its search module" in error
        assert len(error.splitlines()) == 1
        assert not connect(url, 1000).keys("*")


def test_a_redis_that_is_down_is_one_line(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with running_redis(tmp_path) as url:
        pass  # it was there, and is gone
    monkeypatch.setenv("SHORTLIST_REDIS_URL", url.get_secret_value())
    assert main(["--bundle", str(worlds[0].folder)]) == 1
    error = capsys.readouterr().err
    assert "set SHORTLIST_REDIS_URL" in error
    assert len(error.splitlines()) == 1


def test_the_command_says_what_it_did(
    worlds: list[World],
    redis: Redis,
    redis_url: RedisUrl,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del redis  # emptied
    monkeypatch.setenv("SHORTLIST_REDIS_URL", redis_url.get_secret_value())
    shutil.move(worlds[0].folder, worlds[0].folder.with_name("renamed"))
    folder = str(worlds[0].folder.with_name("renamed"))
    assert main(["--bundle", folder]) == 0
    assert capsys.readouterr().out.startswith("one: 20 items indexed in ")
    assert main(["--bundle", folder]) == 0
    assert capsys.readouterr().out == "one: indexed already\n"
