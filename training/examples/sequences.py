"""What users did in order: the histories that baselines are asked with, and what follows what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Ints
from contract.dataset import ANY
from training.data.prepared import Prepared
from training.examples.split import all_user_ids, is_before, is_positive, rows_of
from training.features.activity import log_order

LEAST_WEIGHT = 1e-4
"""A place in a history that weighs less is left out."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Interactions user after user, oldest first, in the order of `log_order`; all (N,).

    `users` are rows of `all_user_ids`, `items` rows of the items table, and `places` count from each user's
    newest, which is 0.
    """

    users: Ints
    items: Ints
    places: Ints
    shape: tuple[int, int]
    """How many users and items there are."""

    @classmethod
    def of(cls, prepared: Prepared, until: datetime, label: str = ANY) -> Sequences:
        """Takes the interactions before an instant; with a `label`, those where it is 1."""
        log, user_ids = prepared.interactions, all_user_ids(prepared)
        item_ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)
        items = rows_of(item_ids, log[names.ITEM_ID].to_numpy(np.int64))
        users = rows_of(user_ids, log[names.USER_ID].to_numpy(np.int64))
        is_kept = is_before(prepared, until) & (items >= 0) & is_positive(prepared, label)
        order = log_order(prepared, users)
        order = order[is_kept[order]]
        users, items = users[order], items[order]
        ends = np.searchsorted(users, np.arange(len(user_ids)), side="right")
        return cls(users, items, ends[users] - 1 - np.arange(len(users)), (len(user_ids), len(item_ids)))

    def weighted(self, decay: float) -> csr_matrix:
        """Weighs every user's items by `decay` to the power of their place, (U,I).

        1 weighs all alike, 0 keeps the newest alone. An item that is there again counts where it is newest.
        """
        weights = np.power(np.float32(decay), self.places, dtype=np.float32)
        mask = weights >= LEAST_WEIGHT
        users, items, weights = self.users[mask], self.items[mask], weights[mask]
        # Newest last, and of each user's item the last is kept.
        keys = (users * self.shape[1] + items)[::-1]
        _, newest = np.unique(keys, return_index=True)
        newest = len(keys) - 1 - newest
        return csr_matrix((weights[newest], (users[newest], items[newest])), shape=self.shape)

    def transitions(self) -> csr_matrix:
        """Counts how often an item was followed at once by another, (I,I); by itself does not count."""
        before, after = self.items[:-1], self.items[1:]
        counted = (self.users[:-1] == self.users[1:]) & (before != after)
        ones = np.ones(int(counted.sum()), dtype=np.float32)
        return csr_matrix((ones, (before[counted], after[counted])), shape=(self.shape[1],) * 2)
