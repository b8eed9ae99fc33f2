"""What is held of every training example of retrieval, apart from its user's columns: 34 bytes each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from contract.arrays import Bools, Doubles, Ints


@dataclass(frozen=True, eq=False)
class ExampleFacts:
    """Positives (rows,): who chose what, how long ago, and how much it counts."""

    users: Ints
    """Below `user_count`."""
    items: Ints
    """Rows of the items table."""
    is_timed: Bools
    """Whether the example has a timestamp of its own; a row of a history has none."""
    is_target: Bools
    """Whether its target is 1."""
    age_days: Doubles
    """Days from the interaction to the end of the examples."""
    weights: Doubles
    """The largest weight among its labels that are 1; 1 where none is."""
    user_count: int
    item_count: int

    def __len__(self) -> int:
        return len(self.users)

    def of(self, rows: Ints | slice) -> ExampleFacts:
        """Gives the facts of some of them, of the same users and items."""
        return ExampleFacts(
            users=np.asarray(self.users[rows]),
            items=np.asarray(self.items[rows]),
            is_timed=np.asarray(self.is_timed[rows]),
            is_target=np.asarray(self.is_target[rows]),
            age_days=np.asarray(self.age_days[rows]),
            weights=np.asarray(self.weights[rows]),
            user_count=self.user_count,
            item_count=self.item_count,
        )

    @property
    def span_days(self) -> float:
        """The age of the oldest timed example; 1 where there is none."""
        return float(self.age_days[self.is_timed].max(initial=0.0)) or 1.0

    def matrix(self) -> csr_matrix:
        """Counts the examples of every user and item, (U,I)."""
        ones = np.ones(len(self), np.float32)
        return csr_matrix((ones, (self.users, self.items)), shape=(self.user_count, self.item_count))
