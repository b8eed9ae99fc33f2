"""ItemKNN: items like those in the user's history, by cosine over users."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix


class ItemKNN:
    """Sums a candidate's cosine similarities to the history's items, over each item's nearest neighbours.

    Source: Deshpande and Karypis 2004; the shrinkage of Bell and Koren 2007.
    """

    def __init__(self, interactions: csr_matrix, neighbours: int = 500, shrinkage: float = 10.0) -> None:
        """Takes interactions (U,I), any value not 0 counting once; keeps each item's nearest `neighbours`.

        `shrinkage` is added to the cosine's denominator, in users: raise it and rare items count less.
        """
        users = binary(interactions)
        counts = np.asarray(users.sum(axis=0), dtype=np.float32).ravel()
        shared = np.asarray((users.T @ users).todense(), dtype=np.float32)
        norms = np.sqrt(counts)
        similar = shared / (np.outer(norms, norms) + np.float32(shrinkage))
        np.fill_diagonal(similar, 0)
        if neighbours < similar.shape[1]:
            least = np.partition(similar, -neighbours, axis=1)[:, -neighbours][:, None]
            similar[similar < least] = 0
        self.similar = csr_matrix(similar)

    def score(self, history: csr_matrix) -> npt.NDArray[np.float32]:
        """Takes users' weighted histories (B,I), gives float32 (B,I)."""
        return np.asarray((history @ self.similar).todense(), dtype=np.float32)


def binary(matrix: csr_matrix) -> csr_matrix:
    """Takes counts, gives 1 where they are not 0."""
    ones = matrix.copy()
    ones.sum_duplicates()
    ones.data = np.ones_like(ones.data, dtype=np.float32)
    return ones
