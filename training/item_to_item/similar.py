"""What goes with each item whenever it was chosen: a linear model of whole histories."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from contract.arrays import Floats
from contract.item_to_item import ItemToItem
from training.baselines.ease import ease_weights
from training.item_to_item.cut import cut_dense

ITEMS = 4000
"""Items, the most frequent, that the linear model knows: its work grows with their cube."""
RIDGE = 500.0
"""Penalty in users, at most a tenth of them."""


def similar(interactions: csr_matrix) -> ItemToItem:
    """Fits EASE on interactions (U,I), any value not 0 counting once; gives its strongest weights, of either
    sign. Items beyond the `ITEMS` most frequent go with nothing."""
    counts = interactions.getnnz(axis=0)
    chosen = np.argsort(-counts, kind="stable")[:ITEMS]
    chosen = np.sort(chosen[counts[chosen] > 0]).astype(np.int64)
    if not len(chosen):
        return cut_dense(np.zeros((0, 0), np.float32), chosen, interactions.shape[1])
    weights: Floats = ease_weights(interactions[:, chosen], min(RIDGE, interactions.shape[0] / 10))
    return cut_dense(weights, chosen, interactions.shape[1])
