"""What each stage costs by itself, on memory stores: no Redis, no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from contract.affinity import LISTS, affinity_columns, user_item_features
from contract.tensors import MAX_N, PAD_ID
from tests.builders.triton import World, make_recommender, make_request, make_world

WIDTHS = (100, 400, 1600)
ITEMS = 4000
by_k = pytest.mark.parametrize("k", WIDTHS, ids="K={}".format)

Measure = Callable[..., Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A bundle of 4,000 items with small random models."""
    return make_world(tmp_path_factory.mktemp("world") / "bundle", items=ITEMS)


def chain(world: World, k: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answers one request for a slate of 100; gives the stages by name and every tensor of the chain."""
    recommender = make_recommender(world, k=k, max_overfetch=k, max_seen=k)
    tensors = make_request(world.user_ids[1], n=MAX_N)
    stages = {node.op.name: node.op for node in recommender.chain}
    return stages, tensors | recommender.run(tensors)


def stage(world: World, k: int, name: str) -> tuple[Callable[[], dict[str, Any]], dict[str, Any]]:
    """Gives a call of one stage on what it reads, and every tensor of the chain."""
    stages, tensors = chain(world, k)
    read = {tensor: tensors[tensor] for tensor in stages[name].reads}
    return lambda: stages[name].run(**read), tensors


@pytest.mark.benchmark(group="encode_user")
def test_encode_user(benchmark: Measure, world: World) -> None:
    """One user: encoders and a small user tower."""
    call, _ = stage(world, 100, "encode_user")
    assert np.isfinite(benchmark(call)["user_vector"]).all()


@pytest.mark.benchmark(group="filter_candidates")
@by_k
def test_filter_candidates(benchmark: Measure, world: World, k: int) -> None:
    """One user, all rules, over what was retrieved for K."""
    call, tensors = stage(world, k, "filter_candidates")
    candidates = benchmark(call)["candidate_ids"]
    seen = tensors["seen_item_ids"]
    assert (candidates != PAD_ID).mean() > 0.8  # what is unavailable is not made up for
    assert not np.isin(candidates, seen[seen != PAD_ID]).any()


@pytest.mark.benchmark(group="lookup_item_features")
@by_k
def test_lookup_item_features(benchmark: Measure, world: World, k: int) -> None:
    """K candidates' features out of the table in the process."""
    call, _ = stage(world, k, "lookup_item_features")
    assert benchmark(call)["encoded_candidate_numeric"].shape[:2] == (1, k)


@pytest.mark.benchmark(group="score_candidates")
@by_k
def test_score_candidates(benchmark: Measure, world: World, k: int) -> None:
    """User-item features, encoding and a small ranker: the stage without the weight of a real model."""
    call, tensors = stage(world, k, "score_candidates")
    assert (benchmark(call)["ranking_scores"] > 0).sum() == tensors["candidate_mask"].sum()


@pytest.mark.benchmark(group="order_candidates")
@by_k
def test_order_candidates(benchmark: Measure, world: World, k: int) -> None:
    """K candidates to a slate of 100."""
    call, tensors = stage(world, k, "order_candidates")
    slate = benchmark(call)
    served = slate["item_ids"] != PAD_ID
    assert served.sum() == min(MAX_N, tensors["candidate_mask"].sum())
    assert (np.diff(slate["item_scores"][served]) <= 0).all()


@pytest.mark.benchmark(group="user_item_features")
@by_k
def test_user_item_features(benchmark: Measure, world: World, k: int) -> None:
    """Matches of K candidates with two lists of 50 recent items; half of them are recent."""
    rng = np.random.default_rng(0)
    columns = affinity_columns(world.dataset)
    ids = rng.permutation(k)[None]
    recents = {name: {c: ids[:, :50] for c in columns} for name in LISTS}
    made = benchmark(user_item_features, world.dataset, recents, {c: ids for c in columns})
    assert made["user_item_recent"].sum() == 50
