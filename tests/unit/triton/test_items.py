"""The item table: stays fresh, survives a store that fails, and knows what it does not hold."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from contract import names
from contract.affinity import LISTS, user_item_features
from contract.dataset import Dataset
from contract.errors import ErrorCode, StageError
from ensemble.bundle import LoadedBundle
from ensemble.run.recommender import item_table
from ensemble.stores import items as module
from ensemble.stores.items import ItemTable
from tests.builders.triton import World, make_settings

WAIT_S = 10.0


def make_table(world: World, refresh_s: float = 60.0) -> ItemTable:
    return item_table(
        LoadedBundle.open(world.folder), world.memory_store(), make_settings(refresh_s=refresh_s)
    )


def encoded_items(table: ItemTable) -> dict[str, Any]:
    """Gives the encoded columns of the whole catalogue."""
    return table.inputs.unpack(table.snapshot.inputs, "candidate_")


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "not within its bound"
        time.sleep(0.01)


def test_every_id_has_its_row_and_others_the_null_row(world: World) -> None:
    table = make_table(world)
    table.load()
    snapshot = table.snapshot
    ids = np.array([[world.item_ids[3], -1, world.item_ids[0], 11]])
    rows = snapshot.rows_of(ids)
    codes = encoded_items(table)
    assert codes[names.ITEM_ID][rows].tolist() == [[3 + 3, 1, 0 + 3, 1]], "place in the vocabulary, null"
    assert snapshot.is_available[rows].tolist()[0][1::2] == [False, False]
    assert codes["item_category"][rows[0, 1]] == 1, "null's code"
    assert {array.dtype for array in snapshot.inputs.values()} == {np.dtype(np.int32), np.dtype(np.float32)}


def test_a_new_materialisation_is_seen_without_a_restart(world: World) -> None:
    table = make_table(world, refresh_s=0.02)
    item_id = world.item_ids[5]
    table.start()
    try:
        row = table.snapshot.rows_of(np.array([item_id]))[0]
        table.store.put(names.ITEM_ACTIVITY, item_id, {names.ITEM_EVENT_COUNT: 777.0}, world.event_timestamp)  # type: ignore[attr-defined]
        expected = table.encoders.encode(names.ITEM_EVENT_COUNT, np.array([777.0], dtype=np.float32))
        wait_until(lambda: encoded_items(table)[names.ITEM_EVENT_COUNT][row] == expected)
    finally:
        table.stop()


def test_before_the_first_reading_requests_fail_as_a_dependency_then_recover(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    table = make_table(world)
    read, is_up = table.store.read_items, False

    def flaky(item_ids: Any) -> Any:
        if not is_up:
            raise RedisConnectionError("refused")
        return read(item_ids)

    table.store.read_items = flaky  # type: ignore[method-assign]
    table.start()
    try:
        with pytest.raises(StageError, match="not loaded yet") as caught:
            _ = table.snapshot
        assert caught.value.code is ErrorCode.DEPENDENCY
        is_up = True
        wait_until(lambda: table._snapshot is not None)
    finally:
        table.stop()


def test_a_failed_refresh_keeps_the_last_reading(world: World) -> None:
    table = make_table(world, refresh_s=0.02)
    failures: list[int] = []

    def fail(_: Any) -> Any:
        failures.append(1)
        raise RedisConnectionError("refused")

    table.start()
    try:
        table.store.read_items = fail  # type: ignore[method-assign, assignment]
        wait_until(lambda: len(failures) > 2)
        assert len(table.snapshot.item_ids) == len(world.item_ids)
    finally:
        table.stop()


def test_comparable_strings_are_numbers_that_agree_where_the_strings_do(world: World) -> None:
    table = make_table(world)
    table.load()
    brands = table.store.read_items(np.append(table.item_ids, names.NULL_INT)).columns["item_brand"]
    numbers = table.snapshot.comparable["item_brand"]
    assert numbers.dtype == np.int32
    pairs = {(b, int(n)) for b, n in zip(brands, numbers, strict=True)}
    assert len(pairs) == len({b for b, _ in pairs}) == len({n for _, n in pairs})
    assert (None, module.NULL) in pairs


@pytest.mark.parametrize("most", [64, 3], ids=["as bits", "as lists"])
def test_lists_are_compared_as_sets(world: World, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(module, "BITS", most)
    table = make_table(world)
    table.load()
    tags = table.snapshot.comparable["item_tags"]
    assert tags.shape == ((len(world.item_ids) + 1,) if most == 64 else (len(world.item_ids) + 1, 4))
    rows = np.arange(len(world.item_ids))
    lists = {name: {names.ITEM_ID: world_ids(world), "item_tags": tags[None, rows]} for name in LISTS}
    shared = user_item_features(dataset_of_tags(world), lists, lists[LISTS[0]])["user_item_tags_recent"]
    sets = [
        set((world.rows.get((names.ITEM_CATALOG, i)) or {}).get("item_tags") or ()) for i in world.item_ids
    ]
    assert shared[0].tolist() == [sum(bool(one & other) for other in sets) for one in sets]


def world_ids(world: World) -> Any:
    return np.array([world.item_ids])


def dataset_of_tags(world: World) -> Dataset:
    """The world's data set with no other affinity than the tags."""
    others = {
        n: c.model_copy(update={"is_affinity": n == "item_tags"}) for n, c in world.dataset.items.items()
    }
    return world.dataset.model_copy(update={"items": others})
