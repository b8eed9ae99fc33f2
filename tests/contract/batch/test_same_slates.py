"""Batch and online give the same slate: for one bundle and one state of the stores, through a real Redis."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.compute.chain import BatchChain, UserSlates
from contract.bundle import OrderSpec
from contract.errors import StageError
from contract.rules.order_rules import OrderRules
from contract.slates import Degradation, degradation_mask
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.run.recommender import Recommender, redis_stores
from tests.builders.batch import UNKNOWN_USERS, BatchWorld
from tests.builders.index_nodes import Cluster
from tests.builders.search_redis import running_redis
from tests.builders.triton import add_sources, make_request

USERS = 1_000
CLOSE = 1e-6
"""Scores closer than this may change places."""
STRANGERS = (10**12, 0)
"""Nobody has heard of them."""


@pytest.fixture(scope="module")
def asked(batch_world: BatchWorld) -> np.ndarray:
    """Gives those whose slates are compared: among them unknown ones, and some who have seen nearly all."""
    known = batch_world.world.user_ids[1:]
    assert len(known) >= USERS
    return np.array([*known, *UNKNOWN_USERS, *STRANGERS, batch_world.world.user_ids[0]])


@pytest.fixture(scope="module", params=["exact", "redis"])
def batch(request: pytest.FixtureRequest, batch_world: BatchWorld, asked: np.ndarray) -> UserSlates:
    """Gives the slates of a batch, by either retrieval."""
    chain = BatchChain.open(batch_world.chain, batch_world.batch(retrieval=request.param))
    parts = list(chain.slates(asked, 64))
    assert max(len(part.user_ids) for part in parts) == 64
    assert set(chain.stage_us) == set(chain.recommender.stages)
    return UserSlates(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("user_ids", "item_ids", "item_scores", "degraded")
        )
    )


@pytest.fixture(scope="module")
def online(batch_world: BatchWorld) -> Recommender:
    """Gives what answers requests, on the same Redis."""
    bundle = LoadedBundle.open(batch_world.chain.bundle)
    stores = redis_stores(bundle, batch_world.chain)
    stores.items.load()
    return Recommender(bundle, stores, batch_world.chain)


def answers(online: Recommender, requests: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    found: list[Any] = online.answer(requests)
    assert not [answer for answer in found if isinstance(answer, StageError)]
    names = ("item_ids", "item_scores", "degraded")
    return {name: np.concatenate([answer[name] for answer in found]) for name in names}


def together(requests: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Makes one request of several users."""
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def test_a_batch_keeps_the_rules_of_the_settings(batch_world: BatchWorld, asked: np.ndarray) -> None:
    rules = {
        "caps": [{"column": "item_category", "most": 1, "window": 3}],
        "shares": [{"filters": {"item_category": [1]}, "share": 0.2}],
        "diversity": 0.3,
    }
    settings = batch_world.chain.model_copy(update={"order": OrderRules.model_validate(rules)})
    some, n = asked[:120], batch_world.batch().n
    (made,) = BatchChain.open(settings, batch_world.batch()).slates(some, 120)
    bundle = LoadedBundle.open(batch_world.chain.bundle)
    stores = redis_stores(bundle, settings)
    stores.items.load()
    plain = Recommender(bundle, stores, batch_world.chain)
    requests = [make_request(int(user_id), n=n, rules=rules) for user_id in some]
    by_request = np.concatenate([answers(plain, [one])["item_ids"] for one in requests])[:, :n]
    np.testing.assert_array_equal(made.item_ids, by_request)
    unruled = answers(plain, [make_request(int(user_id), n=n) for user_id in some[:32]])["item_ids"][:, :n]
    assert (made.item_ids[:32] != unruled).any()


def test_a_batch_asks_every_node_of_an_index(
    batch_world: BatchWorld, asked: np.ndarray, tmp_path: Path
) -> None:
    settings = batch_world.chain.model_copy(update={"head_items": 0})
    batch, some = batch_world.batch(retrieval="redis"), asked[:60]

    def slates() -> UserSlates:
        (made,) = BatchChain.open(settings, batch).slates(some, 60)
        return made

    expected = slates()
    with running_redis(tmp_path) as node:
        cluster = Cluster(batch_world.redis, batch_world.url, [node])
        assert cluster.move(batch_world.world).run((cluster.home, node.address)) > 50
        np.testing.assert_array_equal(slates().item_ids, expected.item_ids)
    try:
        with pytest.raises(StageError, match=f"index node {node.address} is away; the index holds"):
            slates()
    finally:
        cluster.move(batch_world.world).run((cluster.home,))
    np.testing.assert_array_equal(slates().item_ids, expected.item_ids)


def test_a_batch_takes_candidates_from_the_bundles_sources(
    batch_world: BatchWorld, asked: np.ndarray, tmp_path: Path
) -> None:
    several = replace(batch_world.world, folder=tmp_path / "several")
    shutil.copytree(batch_world.chain.bundle, several.folder)
    add_sources(several, order=OrderSpec(ranking=0.5, retrieval=1.0, sources={"chain": 0.5, "popular": 1.0}))
    settings = batch_world.chain.model_copy(update={"bundle_dir": several.folder})
    some, n = asked[:120], batch_world.batch().n
    (made,) = BatchChain.open(settings, batch_world.batch()).slates(some, 120)
    bundle = LoadedBundle.open(several.folder)
    stores = redis_stores(bundle, settings)
    stores.items.load()
    there = answers(
        Recommender(bundle, stores, settings), [make_request(int(user_id), n=n) for user_id in some]
    )
    np.testing.assert_array_equal(made.degraded, there["degraded"][:, 0])
    for row, (ours, theirs) in enumerate(zip(made.item_ids, there["item_ids"][:, :n], strict=True)):
        compare(made.item_scores[row], ours, theirs)
    (by_vectors,) = BatchChain.open(batch_world.chain, batch_world.batch()).slates(some, 120)
    assert (made.item_ids != by_vectors.item_ids).any(axis=1).sum() > 100


@pytest.mark.parametrize("users", [1, 7, 40], ids="{} users a request".format)
def test_batch_and_online_give_the_same_slates(
    batch: UserSlates, online: Recommender, asked: np.ndarray, batch_world: BatchWorld, users: int
) -> None:
    n = batch_world.batch().n
    requests = [make_request(int(user_id), n=n) for user_id in asked]
    per_request = [together(requests[start : start + users]) for start in range(0, len(requests), users)]
    parts = [answers(online, per_request[start : start + 32]) for start in range(0, len(per_request), 32)]
    there = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    np.testing.assert_array_equal(batch.user_ids, asked)
    np.testing.assert_array_equal(batch.degraded, there["degraded"][:, 0])
    np.testing.assert_allclose(batch.item_scores, there["item_scores"][:, :n], rtol=0, atol=CLOSE)
    assert (there["item_ids"][:, n:] == PAD_ID).all()
    for row, (ours, theirs) in enumerate(zip(batch.item_ids, there["item_ids"][:, :n], strict=True)):
        compare(batch.item_scores[row], ours, theirs)


def compare(scores: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Places may differ only among scores that are close to each other, or to the last one, the cut."""
    places = {item_id: place for place, item_id in enumerate(ours.tolist())}
    for place in np.flatnonzero(ours != theirs):
        other = places.get(int(theirs[place]), len(ours) - 1)
        assert abs(scores[place] - scores[other]) < CLOSE, (ours, theirs)


def test_what_is_compared_has_every_kind_of_user(batch: UserSlates, batch_world: BatchWorld) -> None:
    world, settings = batch_world.world, batch_world.chain
    seen = np.array([len(world.seen.get(user_id, ())) for user_id in batch.user_ids.tolist()])
    short = (batch.degraded & degradation_mask([Degradation.SHORT])) != 0
    unknown = (batch.degraded & degradation_mask([Degradation.UNKNOWN_USER])) != 0
    assert (seen > settings.max_overfetch).sum() > 100
    assert (seen == 0).sum() > 0
    assert (~short & (seen > 50)).any()
    assert short.any()
    assert unknown.sum() == len(UNKNOWN_USERS) + len(STRANGERS) + 1
    assert len({tuple(slate) for slate in batch.item_ids[~unknown].tolist()}) > USERS * 0.9
    assert len({tuple(slate) for slate in batch.item_ids[unknown].tolist()}) <= 2, "the towers know one's id"
    shown = set(batch.item_ids[batch.item_ids != PAD_ID].tolist())
    unavailable = {
        key
        for (view, key), row in world.rows.items()
        if view == "item_catalog" and row["item_is_available"] is False
    }
    assert len(unavailable) > 10
    assert not shown & unavailable
    for user_id, slate in zip(batch.user_ids.tolist(), batch.item_ids.tolist(), strict=True):
        assert not set(slate) & set(world.seen.get(user_id, ())[: settings.max_seen])


def test_unknown_users_have_no_slate_of_their_own(batch: UserSlates, batch_world: BatchWorld) -> None:
    known = batch.known()
    assert known.user_ids.tolist() == list(batch_world.world.user_ids[1:])
    assert len(known.item_ids) == len(known.item_scores) == len(known.degraded) == len(known.lengths)
    assert (known.lengths == (known.item_ids != PAD_ID).sum(axis=1)).all()


def test_a_users_slate_does_not_depend_on_how_many_are_computed_at_a_time(batch_world: BatchWorld) -> None:
    user_ids = np.array(batch_world.world.user_ids[1:50])
    chain = BatchChain.open(batch_world.chain, batch_world.batch())
    (whole,) = chain.slates(user_ids, 100)
    pieces = list(chain.slates(user_ids, 7))
    assert [len(piece.user_ids) for piece in pieces] == [7] * 7
    scores = np.concatenate([piece.item_scores for piece in pieces])
    np.testing.assert_allclose(scores, whole.item_scores, rtol=0, atol=CLOSE)
    for row, slate in enumerate(np.concatenate([piece.item_ids for piece in pieces])):
        compare(whole.item_scores[row], whole.item_ids[row], slate)


def test_exploration_does_not_reach_what_is_stored(batch_world: BatchWorld) -> None:
    user_ids = np.array(batch_world.world.user_ids[1:10])
    explores = batch_world.chain.model_copy(update={"exploration_temperature": 5.0})
    (plain,) = BatchChain.open(batch_world.chain, batch_world.batch()).slates(user_ids, 10)
    (other,) = BatchChain.open(explores, batch_world.batch()).slates(user_ids, 10)
    np.testing.assert_array_equal(plain.item_ids, other.item_ids)
