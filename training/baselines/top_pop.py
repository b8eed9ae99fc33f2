"""TopPop: the same list for everyone, by the number of positives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix


class TopPop:
    """Scores an item by how often it was a positive in the train part's log."""

    def __init__(self, positives: csr_matrix) -> None:
        """Takes counts of positives, (U,I)."""
        self.counts = np.asarray(positives.sum(axis=0), dtype=np.float32).ravel()

    def score(self, history: csr_matrix) -> npt.NDArray[np.float32]:
        """Takes users' histories (B,I), gives float32 (B,I), every row the same."""
        return np.repeat(self.counts[None], history.shape[0], axis=0)
