"""What users have seen, kept as it happens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from contract.dataset import Dataset
from contract.keys import MAX_SEEN, decode_seen, encode_seen, seen_key
from live.transaction import Transaction


def add_seen(
    dataset: Dataset, seen: Iterable[tuple[int, int]], transaction: Transaction, most: int = MAX_SEEN
) -> None:
    """Takes numbers of users and of the items that they have seen, oldest first; puts each item in front of
    what its user has seen before, of which the first `most` stay."""
    items: dict[int, dict[int, None]] = {}
    for user_id, item_id in seen:
        mine = items.setdefault(user_id, {})
        mine.pop(item_id, None)
        mine[item_id] = None
    if not items:
        return
    keys = [seen_key(dataset.name, user_id) for user_id in items]
    stored = transaction.read([("GET", key) for key in keys])
    for key, new, value in zip(keys, items.values(), stored, strict=True):
        newest, before = np.array([*reversed(new)]), decode_seen(value)
        for item_id in newest:  # a few, against a thousand
            before = before[before != item_id]
        transaction.write("SET", key, encode_seen(np.concatenate([newest, before])[:most]))
