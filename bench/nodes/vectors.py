"""Items and users as clustered vectors, drawn from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract.arrays import Floats
from contract.bundle import IndexSpec
from ensemble.stores.catalogue import Catalogue

WIDTH, K = 64, 100
SPEC = IndexSpec(kind="HNSW", m=16, ef_construction=200)
ITEMS, USERS = "items.npy", "users.npy"


@dataclass(frozen=True, eq=False)
class Vectors:
    """The items' vectors (I,D), and the users' (U,D) who search."""

    items: Floats
    users: Floats

    @classmethod
    def drawn(cls, items: int, users: int) -> Vectors:
        """Draws both around the same centres, one for a thousand items; the last coordinate is a prior."""
        rng = np.random.default_rng(0)
        centres = _unit(rng.normal(size=(max(64, items // 1000), WIDTH - 1)))

        def near(count: int, prior: Any) -> Floats:
            noise = rng.normal(size=(count, WIDTH - 1)) / np.sqrt(WIDTH - 1)
            around = _unit(centres[rng.integers(0, len(centres), count)] + noise)
            return np.concatenate([around, prior[:, None]], axis=1).astype(np.float32)

        return cls(near(items, 0.1 * rng.normal(size=items)), near(users, np.ones(users)))

    def write(self, folder: Path) -> None:
        """Writes both, for other processes."""
        np.save(folder / ITEMS, self.items)
        np.save(folder / USERS, self.users)

    @classmethod
    def mapped(cls, folder: Path) -> Vectors:
        """Maps what was written."""
        return cls(np.load(folder / ITEMS, mmap_mode="r"), np.load(folder / USERS))

    @property
    def catalogue(self) -> Catalogue:
        """The items, by their numbers."""
        return Catalogue(np.arange(len(self.items)), self.items)


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
