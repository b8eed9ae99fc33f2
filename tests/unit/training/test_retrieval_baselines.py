from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import lapack
from scipy.sparse import csr_matrix, random
from sklearn.utils import extmath

from contract.arithmetic import ArithmeticFault
from training.baselines import ease
from training.baselines.ease import Ease, ease_weights
from training.baselines.item_knn import ItemKNN
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
