"""What happens to the data and the clock while a bundle is served, on a real Redis; servers as a whole are in
tests/integration.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import Any

import numpy as np
import pytest

from contract import names
from contract.errors import StageError
from contract.feast import event_time_field, feature_key
from ensemble.stores.features import RedisFeatureStore
from feature_repo import materialize as materialized
from tests.builders.computed import load_world
from tests.builders.site import Site, answer
from tests.builders.triton import NOW, World, make_request, make_world, slate

HOUR = timedelta(hours=1)
JUMPS = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forth", "back"])


def test_a_new_user_is_known_after_a_materialisation_and_a_new_item_found_after_an_export(site: Site) -> None:
    new = make_world(site.var / "bundles" / "new", items=61, users=21, bundle="new")
    (user,), (item,) = set(new.user_ids) - set(site.old.user_ids), set(new.item_ids) - set(site.old.item_ids)
    new.rows[names.ITEM_CATALOG, item][names.IS_AVAILABLE] = True
    with site.serving(site.old) as old:
        assert "unknown_user" in answer(old, user)[0]
        site.materialize(new)
        assert "unknown_user" not in answer(old, user)[0]
        (others,) = old.answer([make_request(user, excluded=site.old.item_ids)])
        assert slate(others) == []
    site.promote("new")
    assert site.export() == 0
    with site.serving(new) as serving:
        (found,) = serving.answer([make_request(user, excluded=site.old.item_ids)])
        assert slate(found) == [item]


def test_two_data_sets_of_one_redis_are_both_served_whatever_becomes_of_one(site: Site) -> None:
    other = make_world(site.var / "bundles" / "other", name="other", bundle="other", seed=1)
    with site.serving(site.old) as ours:
        before = [answer(ours, user) for user in site.old.user_ids]
        load_world(site.var, other.dataset, other, site.url)
        site.promote("other")
        assert site.export() == 0
        with site.serving(other) as theirs:
            assert [answer(theirs, user)[0] for user in other.user_ids[1:]].count(()) > 10
            assert [answer(ours, user) for user in site.old.user_ids] == before
            half = {key: row for key, row in other.rows.items() if key[1] % 2}
            seen = {user: items for user, items in other.seen.items() if user % 2}
            load_world(site.var, other.dataset, replace(other, rows=half, seen=seen), site.url)
            lacking = Counter(answer(theirs, user)[0][:1] for user in other.user_ids)
            assert lacking["unknown_user",] == 10
        assert [answer(ours, user) for user in site.old.user_ids] == before


@JUMPS
def test_a_clock_that_jumps_during_a_request_makes_it_late_or_changes_nothing(
    site: Site, jump: timedelta
) -> None:
    with site.serving(site.old) as recommender:
        expected = answer(recommender, 101)
        began, calls = time.time(), iter(range(10**6))

        def now_s() -> float:
            return time.time() + (jump.total_seconds() if next(calls) > 2 else 0)

        recommender.now_s = now_s
        (reply,) = recommender.answer([make_request(101, deadline_us=int((began + 20) * 1e6))])
        if jump > timedelta(0):
            assert isinstance(reply, StageError), "the gateway takes the next step, and says so"
            assert "the deadline passed" in str(reply)
        else:
            assert slate(reply) == list(expected[1])
        after = now_s()
        (reply,) = recommender.answer([make_request(101, deadline_us=int((after + 20) * 1e6))])
        assert slate(reply) == list(expected[1]), "the gateway's clock has jumped as well"


@JUMPS
def test_features_after_a_jump_are_as_before_or_told_to_have_expired(site: Site, jump: timedelta) -> None:
    ttl_s = dict.fromkeys(names.USER_VIEWS, 24 * 3600 + 60)
    dataset = site.old.dataset.model_copy(update={"ttl_s": ttl_s})
    users, now = np.array(site.old.user_ids), [NOW]
    store = RedisFeatureStore(site.redis, dataset, lambda: now[0])
    before = store.read_users(users)
    assert before.is_found.sum() == 19
    now[0] += jump
    after = store.read_users(users)
    assert after.is_found.sum() == (0 if jump > timedelta(0) else 19)
    now[0] -= jump
    assert store.read_users(users).is_found.tolist() == before.is_found.tolist()


@JUMPS
def test_a_materialisation_and_an_export_after_a_jump_are_right(
    site: Site, jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    def branded(world: World, brand: str) -> World:
        rows = {
            k: row | {"item_brand": brand} if "item_brand" in row else row for k, row in world.rows.items()
        }
        return replace(world, rows=rows)

    def brand_of(item: int) -> Any:
        store = RedisFeatureStore(site.redis, site.old.dataset, site.old.dataset.clock)
        return store.read_items(np.array([item])).columns["item_brand"].tolist()

    item = site.old.item_ids[5]
    site.materialize(branded(site.old, "one"))
    monkeypatch.setattr(materialized, "datetime", jumped(jump))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump.total_seconds())
    site.materialize(branded(site.old, "two"))
    assert brand_of(item) == ["two"]
    stamp: Any = site.redis.hget(
        feature_key(names.ITEM_ID, item, "tiny"), event_time_field(names.ITEM_CATALOG)
    )
    assert stamp
    make_world(site.var / "bundles" / "new", bundle="new")
    site.promote("new")
    assert site.export("--keep", "1") == 0
    found: Any = site.redis.zrange("bundles:tiny", 0, -1)
    assert found == [b"new"], "the one just built is the newest"
    with site.serving(site.old) as recommender:
        assert answer(recommender, 101)


def jumped(jump: timedelta) -> type[datetime]:
    """The class of instants whose now is another."""

    class Jumped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Jumped:
            return cls.fromtimestamp(datetime.now(tz).timestamp() + jump.total_seconds(), tz)

    return Jumped
