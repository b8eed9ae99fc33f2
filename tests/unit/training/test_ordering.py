"""How a slate's order follows from the two models' scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from contract.bundle import OrderSpec
from contract.ordering import log_odds, order_scores
from training.metrics.lists import ndcg_at
from training.ranking.ordering import FEWEST_CLICKS, Judged, fit_ordering


def draw(weights: OrderSpec, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws scores of both models, and clicks with the chance that `weights` gives them."""
    rng = np.random.default_rng(seed)
    ranking = expit(rng.normal(-1, 1, rows)).astype(np.float32)
    retrieval = rng.uniform(-0.2, 1, rows).astype(np.float32)
    chance = expit(weights.ranking * logit(ranking) + weights.retrieval * retrieval + weights.intercept)
    return ranking, retrieval, rng.random(rows) < chance


def test_the_default_is_the_rankers_probability_itself() -> None:
    ranking, retrieval, _ = draw(OrderSpec(), 100)
    np.testing.assert_allclose(order_scores(ranking, retrieval, OrderSpec()), ranking, atol=1e-6)


def test_scores_stay_probabilities_where_the_ranker_is_certain_and_the_tail_is_padded() -> None:
    ranking = np.array([0, 1, 0.5], dtype=np.float32)
    retrieval = np.array([0.3, 0.3, -np.inf], dtype=np.float32)
    scores = order_scores(ranking, retrieval, OrderSpec(ranking=1, retrieval=5, intercept=-1))
    assert scores.dtype == np.float32
    assert np.isfinite(log_odds(ranking)).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[2] == pytest.approx(expit(-1), abs=1e-6)


def test_each_further_source_counts_by_its_weight_and_one_that_failed_counts_nothing() -> None:
    ranking, retrieval, _ = draw(OrderSpec(), 50)
    chain, fresh = retrieval[::-1].copy(), np.linspace(0, 1, 50, dtype=np.float32)
    order = OrderSpec(ranking=0.5, retrieval=2, sources={"chain": 3.0, "fresh": -1.0}, intercept=-1)
    z = 0.5 * logit(ranking.astype(float)) + 2 * retrieval - 1
    both = order_scores(ranking, retrieval, order, {"chain": chain, "fresh": fresh})
    np.testing.assert_allclose(both, expit(z + 3 * chain - fresh), atol=1e-5)
    one = order_scores(ranking, retrieval, order, {"chain": chain})
    np.testing.assert_allclose(one, expit(z + 3 * chain), atol=1e-5)


def test_a_ranker_of_no_weight_need_not_have_scored() -> None:
    _, retrieval, _ = draw(OrderSpec(), 50)
    order = OrderSpec(ranking=0, retrieval=2)
    unknown = np.full(50, np.nan, dtype=np.float32)
    np.testing.assert_allclose(order_scores(unknown, retrieval, order), expit(2 * retrieval), atol=1e-6)


def lists_of(weights: OrderSpec, users: int, seed: int = 0, **sources: np.ndarray) -> Judged:
    """Draws candidates (users, 50) and clicks with the chance that `weights` gives them."""
    ranking, retrieval, _ = draw(OrderSpec(), users * 50, seed)
    chance = order_scores(ranking, retrieval, weights, {n: v.ravel() for n, v in sources.items()})
    clicked = np.random.default_rng(seed + 1).random(len(chance)) < chance
    shape = (users, 50)
    return Judged(
        ranking=ranking.reshape(shape),
        retrieval=retrieval.reshape(shape),
        sources=sources,
        clicked=clicked.reshape(shape),
        live=np.ones(shape, dtype=np.bool_),
        relevant=clicked.reshape(shape).sum(axis=1).astype(np.int64),
    )


def test_the_fit_finds_the_weights_that_drew_the_clicks() -> None:
    chain = np.random.default_rng(9).exponential(1, (4000, 50)).astype(np.float32)
    true = OrderSpec(ranking=0.7, retrieval=4.0, sources={"chain": 1.0}, intercept=-7.0)
    found = fit_ordering(lists_of(true, 4000, chain=chain))
    assert found.ranking == pytest.approx(true.ranking, rel=0.15)
    assert found.retrieval == pytest.approx(true.retrieval, rel=0.15)
    assert found.sources["chain"] == pytest.approx(1.0, rel=0.15)
    assert found.intercept == pytest.approx(true.intercept, rel=0.1)


def test_a_score_that_misleads_gets_no_weight_rather_than_a_negative_one() -> None:
    judged = lists_of(OrderSpec(ranking=1, retrieval=4, intercept=-5), 1000)
    found = fit_ordering(replace(judged, retrieval=-judged.retrieval))
    assert found.retrieval == 0
    assert found.ranking > 0


def test_a_ranker_that_adds_nothing_has_no_weight() -> None:
    judged = lists_of(OrderSpec(ranking=0, retrieval=6, intercept=-6), 1000)
    noise = expit(np.random.default_rng(3).normal(size=judged.ranking.shape)).astype(np.float32)
    upside_down = np.where(judged.clicked, noise / 2, noise)
    found = fit_ordering(replace(judged, ranking=upside_down))
    assert found.ranking == 0
    assert found.retrieval > 0


def test_an_order_is_never_worse_on_its_users_than_the_best_single_score() -> None:
    chain = np.random.default_rng(5).exponential(1, (300, 50)).astype(np.float32)
    judged = lists_of(
        OrderSpec(ranking=0.1, retrieval=0.2, sources={"chain": 2.0}, intercept=-7), 300, chain=chain
    )
    order = fit_ordering(judged)

    def gain(scores: np.ndarray) -> float:
        at = np.argsort(-scores, axis=1, kind="stable")
        hits = np.take_along_axis(judged.clicked, at, axis=1)
        return float(np.nanmean(ndcg_at(hits, judged.relevant, 10)))

    served = gain(order_scores(judged.ranking, judged.retrieval, order, judged.sources))
    assert served >= max(map(gain, (judged.ranking, judged.retrieval, chain))) - 1e-3


def test_padding_takes_no_part() -> None:
    judged = lists_of(OrderSpec(ranking=1, retrieval=4, intercept=-5), 500)
    shape = (500, 20)
    padded = Judged(
        **{
            name: np.concatenate(
                [getattr(judged, name), np.full(shape, value, getattr(judged, name).dtype)], axis=1
            )
            for name, value in (("ranking", 1), ("retrieval", 99), ("clicked", True), ("live", False))
        },
        sources={},
        relevant=judged.relevant,
    )
    found, expected = fit_ordering(padded), fit_ordering(judged)
    assert found.retrieval == pytest.approx(expected.retrieval, rel=1e-3)
    assert found.ranking == pytest.approx(expected.ranking, rel=1e-3)


def test_a_handful_of_clicks_changes_nothing() -> None:
    judged = lists_of(OrderSpec(), 100)
    few = np.zeros_like(judged.clicked)
    few[0, : FEWEST_CLICKS - 1] = True
    assert fit_ordering(replace(judged, clicked=few)) == OrderSpec()


def test_a_score_that_is_equal_for_all_is_never_the_order_however_well_the_candidates_came() -> None:
    judged = lists_of(OrderSpec(ranking=0, retrieval=6, intercept=-6), 400)
    best_first = np.argsort(~judged.clicked, axis=1, kind="stable")
    sorted_ = {
        name: np.take_along_axis(getattr(judged, name), best_first, axis=1)
        for name in ("ranking", "retrieval", "clicked")
    }
    silent = {"silent": np.zeros_like(judged.retrieval)}
    found = fit_ordering(replace(judged, **sorted_, sources=silent))
    assert found.retrieval > 0
    assert found.sources == {}
