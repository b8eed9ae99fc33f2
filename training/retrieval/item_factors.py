"""Where the item tables start: the factors of a linear item-to-item model, fitted in closed form on train."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd

from contract.arithmetic import expect_equal
from contract.arrays import Floats
from training.baselines.ease import ease_weights


def item_factors(
    interactions: csr_matrix, width: int, ridge: float, start_items: int, seed: int
) -> tuple[Floats, Floats]:
    """Factors the weights of EASE on interactions (U,I): items in a history and as candidates, (I,D) each.

    The product of the two approximates the weights best at that rank, but for scale: a history's rows have
    a mean length of 1, candidates' each a length of 1. Items beyond the `start_items` most frequent, and
    columns beyond the rank, are small and random.

    Raises:
        ArithmeticFault: what LAPACK computed is not what was asked for.
    """
    rng = np.random.default_rng(seed)
    counts = np.asarray((interactions > 0).sum(axis=0)).ravel()
    chosen = np.argsort(-counts, kind="stable")[:start_items]
    chosen = np.sort(chosen[counts[chosen] > 0])
    history, candidate = (
        rng.normal(0, 0.1 / np.sqrt(width), (interactions.shape[1], width)).astype(np.float32)
        for _ in range(2)
    )
    rank = min(width, len(chosen) - 1)
    if rank > 0:
        weights = ease_weights(interactions[:, chosen], ridge)
        left, values, right = randomized_svd(weights, rank, n_iter=3, random_state=seed)
        # However far the factors approximate the weights, left.T @ weights @ right is their diagonal.
        first = np.einsum("ij,j->i", weights, right[0], optimize=False) * left[:, 0]
        expect_equal(first.sum(keepdims=True), values[:1], "LAPACK factors matrices", within=1e-2)
        root = np.sqrt(values)
        history[chosen, :rank] = _scaled(left * root, by_mean=True)
        candidate[chosen, :rank] = _scaled(right.T * root, by_mean=False)
    return history, candidate


def _scaled(rows: Floats, *, by_mean: bool) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = (rows / np.maximum(lengths.mean() if by_mean else lengths, 1e-6)).astype(np.float32)
    return scaled
