from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import lapack
from scipy.sparse import csr_matrix, random
from sklearn.utils import extmath

from contract.arithmetic import ArithmeticFault
from training.baselines import ease
from training.baselines.blend import blend
from training.baselines.ease import Ease, ease_weights
from training.baselines.item_knn import ItemKNN
from training.baselines.markov import Markov
from training.baselines.recent_popularity import RecentPopularity
from training.baselines.top_pop import TopPop
from training.retrieval import item_factors as start

HISTORY = csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [2, 1, 0, 0]], dtype=np.float32))


def test_top_pop_ranks_by_count_the_same_for_everyone() -> None:
    scores = TopPop(HISTORY).score(HISTORY[:2])
    assert scores.tolist() == [[4, 4, 2, 0], [4, 4, 2, 0]]


def test_ease_solves_each_item_by_ridge_regression_on_the_others() -> None:
    users = random(60, 7, 0.4, format="csr", random_state=0, dtype=np.float32)
    weights = ease_weights(users, ridge=3.0)
    plain = (users.toarray() > 0).astype(np.float64)
    for item in range(7):
        others = np.delete(np.arange(7), item)
        inputs, target = plain[:, others], plain[:, item]
        expected = np.linalg.solve(inputs.T @ inputs + 3.0 * np.eye(6), inputs.T @ target)
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-5)
        assert weights[item, item] == 0


def test_ease_of_fewer_users_than_items_has_the_weights_of_its_equations() -> None:
    users = random(9, 30, 0.3, format="csr", random_state=0, dtype=np.float32)
    plain = (users.toarray() > 0).astype(np.float64)
    inverse = np.linalg.inv(plain.T @ plain + 2.0 * np.eye(30))
    expected = inverse / -np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ease_weights(users, ridge=2.0), expected, atol=1e-6)


def test_a_library_that_inverts_wrongly_is_told_and_not_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(factor: np.ndarray, **options: int) -> tuple[np.ndarray, int]:
        half, failed = right(factor, **options)
        half[0, -1] += 0.01
        return half, failed

    right = lapack.dpotri
    monkeypatch.setattr(ease, "dpotri", wrong)
    with pytest.raises(ArithmeticFault, match=r"solves equations wrongly .* set OPENBLAS_CORETYPE=Haswell"):
        ease_weights(HISTORY, ridge=1.0)


def test_a_library_that_factors_wrongly_is_told_and_not_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: object, **options: object) -> tuple[np.ndarray, ...]:
        left, values, vectors = right(*given, **options)
        return left, values, np.roll(vectors, 1, axis=1)

    right = extmath.randomized_svd
    start.item_factors(HISTORY, 2, 1.0, 4, seed=0)
    monkeypatch.setattr(start, "randomized_svd", wrong)
    with pytest.raises(ArithmeticFault, match="factors matrices wrongly"):
        start.item_factors(HISTORY, 2, 1.0, 4, seed=0)


def test_ease_adds_its_prior_to_every_user() -> None:
    weights = ease_weights(HISTORY, ridge=1.0)
    popularity = np.array([0, 1, 2, 3], dtype=np.float32)
    added = Ease(weights, popularity, 0.5).score(HISTORY) - Ease(weights).score(HISTORY)
    np.testing.assert_allclose(added, np.repeat(0.5 * np.log1p(popularity)[None], 4, axis=0), atol=1e-6)


def test_item_knn_is_the_shrunk_cosine_to_the_history() -> None:
    scores = ItemKNN(HISTORY, neighbours=4, shrinkage=2.0).score(csr_matrix([[1.0, 0, 0, 0]]))
    assert scores[0, 1] == pytest.approx(3 / (np.sqrt(3 * 4) + 2))
    assert scores[0, 2] == pytest.approx(1 / (np.sqrt(3 * 2) + 2))
    assert scores[0, [0, 3]].tolist() == [0, 0]


def test_item_knn_keeps_the_nearest_neighbours_only() -> None:
    scores = ItemKNN(HISTORY, neighbours=1).score(csr_matrix([[1.0, 0, 0, 0]]))
    assert np.flatnonzero(scores[0]).tolist() == [1]


def test_ease_leaves_items_that_nobody_met_without_weights_and_the_others_as_they_are() -> None:
    wider = csr_matrix(np.insert(HISTORY.toarray(), 1, 0, axis=1))
    weights = ease_weights(wider, ridge=1.0)
    assert not weights[1].any()
    assert not weights[:, 1].any()
    met = [0, 2, 3, 4]
    np.testing.assert_allclose(weights[np.ix_(met, met)], ease_weights(HISTORY, ridge=1.0), atol=1e-6)


def test_ease_counts_an_item_as_the_history_weighs_it() -> None:
    model = Ease(ease_weights(HISTORY, ridge=1.0))
    one, half = model.score(csr_matrix([[1.0, 0, 0, 0], [0.5, 0, 0, 0]]))
    np.testing.assert_allclose(half, one / 2)


def test_recent_popularity_halves_an_interaction_with_every_half_life() -> None:
    ages = np.array([0.0, 3.0, 6.0, 3.0])
    model = RecentPopularity(np.array([0, 0, 0, 2]), ages, item_count=4, half_life=3.0)
    assert model.score(HISTORY[:2]).tolist() == [[1.75, 0, 0.5, 0]] * 2


def test_markov_gives_what_followed_the_last_item_and_leans_towards_what_follows_at_all() -> None:
    transitions = csr_matrix(np.array([[0, 3, 1], [0, 0, 0], [0, 4, 0]], dtype=np.float32))
    scores = Markov(transitions, smoothing=2.0).score(csr_matrix(np.eye(3, dtype=np.float32)))
    share = np.array([0, 7 / 8, 1 / 8])
    np.testing.assert_allclose(scores[0], (np.array([0, 3, 1]) + 2 * share) / 6, rtol=1e-6)
    np.testing.assert_allclose(scores[1], share, rtol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_a_blend_adds_scores_of_any_scale_as_deviations_of_their_row() -> None:
    one = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]], dtype=np.float32)
    other = np.array([[0.0, 100.0, 50.0], [0.0, 10.0, 5.0]], dtype=np.float32)
    mixed = blend(one, other, 2.0)
    np.testing.assert_allclose(mixed, blend(one * 7 + 1, other, 2.0), atol=1e-5)
    assert np.argsort(-mixed[0]).tolist() == [1, 2, 0]
    assert np.argsort(-blend(one, other, 0.5)[0]).tolist() == [2, 1, 0]
    assert np.argsort(-mixed[1]).tolist() == [1, 2, 0]
