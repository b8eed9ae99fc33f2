"""Who asks: ids drawn by Zipf's law, as skewed as a cache of a size needs for a share of hits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contract.arrays import Ids

FIRST_ID = 1_000_000_000
"""Of the users who are added to a bundle's."""
_ODD = 6364136223846793005
_BITS = (1 << 62) - 1


def ids_of(ranks: Ids) -> Ids:
    """Gives each rank, 0 the most frequent, an id that says nothing of it."""
    return ((ranks.astype(np.uint64) + np.uint64(1)) * np.uint64(_ODD) & np.uint64(_BITS)).astype(np.int64)


@dataclass(frozen=True)
class Zipf:
    """Chances that fall with the rank to the power of `exponent`, over `count` ranks: a power law, drawn by
    its inverse, where the sum is taken for the integral."""

    exponent: float
    count: int

    @classmethod
    def with_share(cls, share: float, first: int, count: int) -> Zipf:
        """Finds the exponent at which the `first` ranks have a share of all."""
        low, high = 0.0, 8.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if cls(middle, count).share_of(first) < share else (low, middle)
        return cls(low, count)

    def share_of(self, first: int) -> float:
        """Gives the share that the first ranks have."""
        return float(self._mass(first) / self._mass(self.count))

    def draw(self, rng: np.random.Generator, *shape: int) -> Ids:
        """Draws ranks."""
        mass = rng.random(shape) * self._mass(self.count)
        left = 1 - self.exponent
        ranks = np.exp(mass) if abs(left) < 1e-6 else (mass * left + 1) ** (1 / left)
        return np.minimum(ranks.astype(np.int64) - 1, self.count - 1).clip(0)

    def _mass(self, ranks: int) -> float:
        left = 1 - self.exponent
        return float(np.log(ranks + 1)) if abs(left) < 1e-6 else ((ranks + 1) ** left - 1) / left
