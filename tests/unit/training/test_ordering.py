"""How a slate's order follows from the two models' scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from contract.bundle import OrderSpec
from contract.ordering import log_odds, order_scores
from training.ranking.ordering import FEWEST_CLICKS, fit_ordering


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


def test_the_fit_finds_the_weights_that_drew_the_clicks() -> None:
    true = OrderSpec(ranking=0.7, retrieval=4.0, intercept=-2.0)
    found = fit_ordering(*draw(true, 200_000))
    assert found.ranking == pytest.approx(true.ranking, abs=0.05)
    assert found.retrieval == pytest.approx(true.retrieval, abs=0.15)
    assert found.intercept == pytest.approx(true.intercept, abs=0.1)


def test_a_score_that_misleads_gets_no_weight_rather_than_a_negative_one() -> None:
    ranking, retrieval, clicked = draw(OrderSpec(ranking=1, retrieval=4), 20_000)
    found = fit_ordering(ranking, -retrieval, clicked)
    assert found.retrieval == 0
    assert found.ranking > 0


def test_a_handful_of_clicks_changes_nothing() -> None:
    ranking, retrieval, _ = draw(OrderSpec(), 1000)
    clicked = np.arange(1000) < FEWEST_CLICKS - 1
    assert fit_ordering(ranking, retrieval, clicked) == OrderSpec()
