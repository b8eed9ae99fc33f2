"""A first-order Markov chain: what most often followed the last item at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags


class Markov:
    """Scores an item by its probability of being the next, given those of the history.

    Where little is known of what follows an item, the chain leans towards what follows at all:
    P(j | i) = (n_ij + smoothing * share_j) / (n_i + smoothing).
    """

    def __init__(self, transitions: csr_matrix, smoothing: float = 1.0) -> None:
        """Takes counts of what followed what, (I,I); `smoothing` is in transitions."""
        leaving = np.asarray(transitions.sum(axis=1), dtype=np.float32).ravel()
        entering = np.asarray(transitions.sum(axis=0), dtype=np.float32).ravel()
        self.follows = csr_matrix(diags(1 / (leaving + smoothing)) @ transitions)
        self.leaning = (smoothing / (leaving + smoothing)).astype(np.float32)
        self.share = entering / max(float(entering.sum()), 1.0)

    def score(self, history: csr_matrix) -> npt.NDArray[np.float32]:
        """Takes users' weighted histories (B,I), of first order their last item; gives float32 (B,I)."""
        followed = np.asarray((history @ self.follows).todense(), dtype=np.float32)
        leaning = np.asarray(history @ self.leaning, dtype=np.float32)
        return followed + leaning[:, None] * self.share
