from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from training.retrieval.newcomer import newcomer

Array = npt.NDArray[np.floating[Any]]


def softmax_of(vectors: Array, direction: Array, gate: float, temperature: float) -> npt.NDArray[np.float64]:
    unit, weight = direction / np.linalg.norm(direction), 2 / (1 + np.exp(-gate))
    chances: npt.NDArray[np.float64] = np.exp(
        (vectors[:, :-1] @ unit + weight * vectors[:, -1]) / temperature
    )
    chances /= chances.sum()
    return chances


@pytest.mark.parametrize("gate", [-1.0, 1.5])
def test_shares_that_a_user_could_have_drawn_are_found_again(gate: float) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.3, (80, 5)).astype(np.float32)
    shares = softmax_of(vectors, np.array([1.0, -0.5, 0.2, 2.0]), gate, 0.2)
    direction, found = newcomer(vectors, shares, 0.2, np.ones(4, np.float32), 0.0)
    np.testing.assert_allclose(softmax_of(vectors, direction, found, 0.2), shares, rtol=0.02)
    assert found == pytest.approx(gate, abs=0.05)


def test_the_fit_is_likelier_than_its_start() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 0.3, (80, 5)).astype(np.float32)
    shares = rng.dirichlet(np.full(80, 0.3))
    start = np.ones(4, np.float32)
    direction, gate = newcomer(vectors, shares, 0.1, start, 0.0)
    likelier = shares @ np.log(softmax_of(vectors, direction, gate, 0.1))
    assert likelier > shares @ np.log(softmax_of(vectors, start, 0.0, 0.1)) + 0.05
