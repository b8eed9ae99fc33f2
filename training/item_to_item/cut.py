"""Cuts a matrix of what goes with each item to the strongest of each row: the table that is served."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from contract.arrays import Floats, Ints
from contract.item_to_item import ENTRY, ItemToItem, most_entries

MOST = 100
"""Entries of a row. Raise it: finer, and a request takes longer in proportion."""


def cut_sparse(matrix: csr_matrix, most: int = MOST) -> ItemToItem:
    """Takes (I,I), keeps the `most` entries farthest from 0 of each row, equal ones by position."""
    matrix = csr_matrix(matrix)
    matrix.sum_duplicates()
    entries = np.zeros((matrix.shape[0], most_entries(matrix.shape[1], most)), dtype=ENTRY)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-np.abs(matrix.data), rows))
    places = np.arange(len(order)) - matrix.indptr[rows]
    mask = (places < entries.shape[1]) & (matrix.data[order] != 0)
    entries["item"][rows[mask], places[mask]] = matrix.indices[order][mask]
    entries["weight"][rows[mask], places[mask]] = matrix.data[order][mask]
    return ItemToItem.of(entries)


def cut_dense(weights: Floats, chosen: Ints, items: int, most: int = MOST) -> ItemToItem:
    """Takes weights (C,C) among the `chosen` (C,) of a catalogue of `items`; the others have no entries."""
    entries = np.zeros((items, most_entries(items, most)), dtype=ENTRY)
    width = min(entries.shape[1], len(chosen))
    if width:
        places = np.argpartition(-np.abs(weights), width - 1, axis=1)[:, :width]
        entries["item"][chosen, :width] = chosen[places]
        entries["weight"][chosen, :width] = np.take_along_axis(weights, places, axis=1)
        entries["item"][entries["weight"] == 0] = 0
    return ItemToItem.of(entries)
