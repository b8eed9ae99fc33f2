"""What a positive is compared with in training: items of the batch, of the catalogue, or of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contract.arrays import Doubles, Floats, Ints
from training.retrieval.config import FactorsConfig

SMOOTHING = 0.75
"""Power of an item's share where popular ones are drawn oftener; source: Mikolov et al. 2013, 2.2."""


@dataclass(frozen=True, eq=False)
class Negatives:
    """Draws items, rows of their table, for all positives of a batch at once.

    `from_catalogue` (I,) sums to 1, or is None where the other positives of the batch are all; `shares` (I,)
    is the chance of each item to be a positive, or None where those are not taken.

    Source: Yang et al. 2020, Mixed Negative Sampling, for both together.
    """

    shares: Doubles | None
    from_catalogue: Doubles | None
    drawn: int

    @classmethod
    def of(cls, shares: Doubles, config: FactorsConfig) -> Negatives:
        """Takes the chance of each item (I,) to be an example's, and the settings."""
        takes_batch = config.negatives in ("in-batch", "mixed")
        catalogue = np.full(len(shares), 1 / len(shares))
        if config.negatives == "popularity":
            catalogue = shares**SMOOTHING / (shares**SMOOTHING).sum()
        return cls(
            shares if takes_batch else None,
            catalogue if config.negatives != "in-batch" else None,
            config.drawn,
        )

    def draw(self, positives: Ints, rng: np.random.Generator) -> Ints:
        """Takes the batch's positives (B,), gives negatives (N,), the same number every time."""
        found = [positives] if self.shares is not None else []
        if self.from_catalogue is not None:
            ends = np.cumsum(self.from_catalogue)
            found.append(np.searchsorted(ends, rng.random(self.drawn) * ends[-1], side="right"))
        return np.minimum(np.concatenate(found), self._items - 1)

    def log_counts(self, items: Ints, batch: int) -> Floats:
        """Gives the logarithm of how often each item (N,) is expected among the negatives of a batch."""
        counts = np.zeros(len(items))
        if self.shares is not None:
            counts += batch * self.shares[items]
        if self.from_catalogue is not None:
            counts += self.drawn * self.from_catalogue[items]
        return np.log(np.maximum(counts, 1e-12)).astype(np.float32)

    @property
    def _items(self) -> int:
        return len(self.shares if self.shares is not None else self.from_catalogue)  # type: ignore[arg-type]
