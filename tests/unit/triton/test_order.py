"""Exploration: what a Gumbel top-k draw promises."""

from __future__ import annotations

import numpy as np

from contract.bundle import OrderSpec
from contract.tensors import MAX_N, PAD_ID
from ensemble.run.recommender import Recommender
from ensemble.stages.order import gumbel_keys, propensities_of
from tests.builders.triton import World, make_recommender, make_request, slate


def answered(recommender: Recommender, seed: int) -> list[int]:
    return slate(recommender.answer([make_request(101, seed=seed)])[0])


def test_without_a_temperature_the_seed_does_not_matter(recommender: Recommender) -> None:
    assert answered(recommender, 1) == answered(recommender, 2)


def test_with_a_temperature_the_seed_decides_and_repeats(world: World) -> None:
    exploring = make_recommender(world, exploration_temperature=1.0)
    assert answered(exploring, 1) == answered(exploring, 1)
    assert len({tuple(answered(exploring, seed)) for seed in range(20)}) > 1


def test_exploration_keeps_the_scores_and_logs_the_chances(world: World) -> None:
    exploring = make_recommender(world, exploration_temperature=1.0)
    (answer,) = exploring.answer([make_request(101, seed=3)])
    assert not isinstance(answer, Exception)
    scores = dict(zip(answer["candidate_ids"][0], answer["ranking_scores"][0], strict=True))
    items = slate(answer)
    assert [scores[i] for i in items] == answer["item_scores"][0][: len(items)].tolist()
    chances = answer["propensities"][0]
    assert ((chances[: len(items)] > 0) & (chances[: len(items)] <= 1)).all()
    assert (chances[len(items) :] == 0).all()
    assert (answer["item_ids"][0][len(items) :] == PAD_ID).all()
    assert answer["item_ids"].shape == (1, MAX_N)


def test_the_first_place_is_drawn_in_proportion_to_the_scores() -> None:
    scores = np.array([[0.5, 0.3, 0.2]], dtype=np.float32).repeat(20_000, axis=0)
    _, keys = gumbel_keys(scores, np.arange(20_000)[:, None], 1.0)
    shares = np.bincount(keys.argmax(axis=1), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.015)  # 4 standard errors


def test_propensities_are_plackett_luce() -> None:
    weights, mask = np.log([[0.5, 0.3, 0.2]]), np.array([[True, True, True]])
    chances = propensities_of(weights, mask, np.array([[1, 0, 2]]))
    np.testing.assert_allclose(chances, [[0.3, 0.5 / 0.7, 1.0]], rtol=1e-6)


def test_the_bundle_says_how_much_the_retrieval_counts_in_the_order(world: World) -> None:
    recommender = make_recommender(world)
    (plain,) = recommender.answer([make_request(101)])
    retrieval_first = OrderSpec(ranking=0, retrieval=1)
    (other,) = make_recommender(world, retrieval_first).answer([make_request(101)])
    assert not isinstance(plain, Exception)
    assert not isinstance(other, Exception)
    live = other["candidate_ids"][0] != PAD_ID
    assert slate(other) == other["candidate_ids"][0][live][:5].tolist()
    assert slate(other) != slate(plain)
    assert not other["ranking_scores"].any(), "a ranker of no weight is not run"
    expected = 1 / (1 + np.exp(-other["retrieval_scores"][0][:5]))
    np.testing.assert_allclose(other["item_scores"][0][:5], expected, rtol=1e-5)
