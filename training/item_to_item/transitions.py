"""What follows each item: a Markov chain of interactions in the order of time."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags

from contract.item_to_item import ItemToItem
from training.examples.sequences import Sequences
from training.item_to_item.cut import cut_sparse

WINDOW = 20
"""Later interactions of a user that count as following. Raise it: broader, less of what comes at once."""


def transitions(sequences: Sequences, window: int = WINDOW) -> ItemToItem:
    """Gives of each item the chances of what follows it: an item d places later counts 1 / d.

    An item may follow itself, where things are chosen again and again.
    """
    users, items = sequences.users, sequences.items
    counts = csr_matrix((sequences.shape[1],) * 2, dtype=np.float64)
    for distance in range(1, window + 1):
        at = np.flatnonzero(users[distance:] == users[:-distance])
        if not len(at):
            break
        weights = np.full(len(at), 1 / distance)
        counts += coo_matrix((weights, (items[at], items[at + distance])), shape=counts.shape).tocsr()
    leaving = np.asarray(counts.sum(axis=1)).ravel()
    return cut_sparse(csr_matrix(diags(1 / np.where(leaving > 0, leaving, 1)) @ counts))
