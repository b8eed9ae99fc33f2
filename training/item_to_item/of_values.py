"""What was chosen of late among the items that share a value with each: an author, a tag, a category."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, diags, hstack

from contract.arrays import Floats
from contract.item_to_item import ItemToItem
from training.item_to_item.cut import MOST, cut_sparse


def of_values(columns: Sequence[pd.Series], counts: Floats, most: int = MOST) -> ItemToItem:
    """Takes columns of the catalogue, each (I,), of values or lists of them, and how often each item was
    chosen, (I,); gives of each item the chances of what is come to by its values.

    One of an item's values is drawn evenly, then by their counts one of the items that have it; of these the
    `most` chosen are looked at.
    """
    held = hstack([csr_matrix((len(counts), 0)), *map(_held, columns)]).tocsr()
    chosen = csr_matrix(held.T @ diags(counts.astype(np.float64)))
    best = cut_sparse(_divided(chosen), most)
    ends = np.arange(0, best.items.size + 1, best.items.shape[1])
    by_value = csr_matrix((best.weights.ravel(), best.items.ravel(), ends), shape=chosen.shape)
    return cut_sparse(csr_matrix(_divided(held) @ by_value), most)


def _held(cells: pd.Series) -> csr_matrix:
    """Marks which items hold which values of a column, (I,V)."""
    values = cells.reset_index(drop=True).explode().dropna()
    codes, distinct = pd.factorize(values.to_numpy(object))
    shape = (len(cells), len(distinct))
    held = csr_matrix((np.ones(len(codes)), (values.index.to_numpy(np.int64), codes)), shape=shape)
    return held.astype(np.bool_).astype(np.float64)


def _divided(matrix: csr_matrix) -> csr_matrix:
    """Divides each row by its sum; one of zeros stays so."""
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    return csr_matrix(diags(1 / np.where(sums > 0, sums, 1)) @ matrix)
