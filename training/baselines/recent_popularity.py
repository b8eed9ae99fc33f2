"""Recent popularity: the same list for everyone, by counts that fade."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from contract.arrays import Doubles, Floats, Ints

HALF_LIVES = (1.0, 1 / 4, 1 / 16, 1 / 64, 1 / 256)
"""Half-lives that validation chooses from, as shares of the train part's span."""


class RecentPopularity:
    """Scores an item by its interactions, each worth half as much with every half-life of its age."""

    def __init__(self, items: Ints, ages: Doubles, item_count: int, half_life: float) -> None:
        """Takes the interactions' items (N,) and ages (N,), in the unit of `half_life`."""
        counts = np.bincount(items, np.exp2(-ages / half_life), minlength=item_count)
        self.counts: Floats = counts.astype(np.float32)

    def score(self, history: csr_matrix) -> npt.NDArray[np.float32]:
        """Takes users' histories (B,I), gives float32 (B,I), every row the same."""
        return np.repeat(self.counts[None], history.shape[0], axis=0)
