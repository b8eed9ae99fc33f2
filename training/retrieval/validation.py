"""What training of retrieval looks at before its end: NDCG@100 of users whose next items are held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from contract.arrays import Array, Floats
from training.metrics.lists import retrieval_metrics
from training.retrieval.model import RetrievalModel

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MEASURED = "ndcg@100"


@dataclass(frozen=True, eq=False)
class Validation:
    """Held-out users, a `Validate`."""

    users: Mapping[str, Array]
    """Their encoded columns as of the end of train, (U,), lists (U,S)."""
    catalogue: Mapping[str, Array]
    """The encoded columns of all items, (I,), lists (I,L)."""
    relevant: csr_matrix
    """What they found, (U,I), nonzero where true."""
    seen: csr_matrix
    """What is not to be found any more, (U,I)."""

    def __call__(self, model: RetrievalModel) -> float:
        """Measures a model as it stands."""
        return self.measure(model.encode_users(self.users), model.encode_items(self.catalogue))

    def measure(self, users: Floats, items: Floats) -> float:
        """Takes the vectors of the held-out users (U,D) and of all items (I,D)."""
        metrics = retrieval_metrics(lambda rows: users[rows] @ items.T, self.relevant, self.seen)
        return float(np.nanmean(metrics[MEASURED]))
