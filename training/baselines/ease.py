"""EASE: a linear model that predicts each item from the others, in closed form."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.sparse import csr_matrix

from contract.arithmetic import expect_equal
from contract.arrays import Doubles, Floats
from training.baselines.item_knn import binary


def ease_weights(interactions: csr_matrix, ridge: float) -> Floats:
    """Fits the item-to-item weights on interactions (U,I), any value not 0 counting once.

    `ridge` is the L2 penalty, in users: raise it and rare items count less. Gives float32 (I,I) with a zero
    diagonal; needs two such matrices of float64.

    Source: Steck 2019, equation 8.

    Raises:
        ValueError: the penalty is too small for these interactions.
        ArithmeticFault: what LAPACK computed does not solve the equations.
    """
    met = np.flatnonzero(interactions.getnnz(axis=0))
    if len(met) < interactions.shape[1]:  # what nobody met has no weights: leave it out of the cubic work
        weights: Floats = np.zeros((interactions.shape[1],) * 2, dtype=np.float32)
        weights[np.ix_(met, met)] = ease_weights(interactions[:, met], ridge)
        return weights
    users = binary(interactions[interactions.getnnz(axis=1) > 0])
    inverse = _inverse_of_few(users, ridge) if users.shape[0] < users.shape[1] else _inverse(users, ridge)
    signs = np.where(np.arange(len(inverse)) % 2, -1.0, 1.0)
    solution = np.einsum("ij,j->i", inverse, signs, optimize=False)
    expect_equal(users.T @ (users @ solution) + ridge * solution, signs, "LAPACK solves equations")
    weights = (inverse / -np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def _inverse(users: csr_matrix, ridge: float) -> Doubles:
    """Inverts the Gram matrix of items with the ridge on its diagonal, (I,I)."""
    gram = (users.T @ users).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += ridge
    # A third of the work of solving for the identity, and in place. `potri` fills one triangle only.
    factor, failed = dpotrf(gram.T, lower=0, overwrite_a=1)
    if failed:
        raise ValueError(f"ridge={ridge} is too small for these interactions; raise it")
    half, _ = dpotri(factor, lower=0, overwrite_c=1)
    inverse: Doubles = np.triu(half) + np.triu(half, 1).T
    return inverse


def _inverse_of_few(users: csr_matrix, ridge: float) -> Doubles:
    """Gives the same by the Gram matrix of users, smaller where they are fewer: Woodbury's identity."""
    if ridge <= 0:
        raise ValueError(f"ridge={ridge} is too small for these interactions; raise it")
    users = users.astype(np.float64)
    gram = (users @ users.T).toarray()
    gram[np.diag_indices_from(gram)] += ridge
    inverse: Doubles = users.T @ solve(gram, users.toarray(), assume_a="pos") / -ridge
    inverse[np.diag_indices_from(inverse)] += 1 / ridge
    return inverse


class Ease:
    """Scores an item by its weights from the history's items, plus a small multiple of its log popularity."""

    def __init__(self, weights: Floats, popularity: Floats | None = None, prior: float = 0.0) -> None:
        """Takes the weights (I,I) of `ease_weights`, counts (I,) of positives, the factor of their log."""
        self.weights = weights
        self.prior = np.zeros(len(weights), np.float32)
        if popularity is not None:
            self.prior = (prior * np.log1p(popularity)).astype(np.float32)

    def score(self, history: csr_matrix) -> Floats:
        """Takes users' weighted histories (B,I), gives float32 (B,I)."""
        scores: Floats = np.asarray(history @ self.weights, dtype=np.float32) + self.prior
        return scores
