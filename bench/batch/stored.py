"""Reads the slates that are published, as the gateway reads them, and compares slates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from redis import Redis

from contract.arrays import Ids
from contract.keys import batch_key, slate_key
from contract.slates import Published, StoredSlate
from contract.tensors import PAD_ID

AT_A_TIME = 1000


def published_slates(redis: Redis, dataset: str, user_ids: Sequence[int]) -> dict[int, Ids]:
    """Gives the items of every user's stored slate, best first; a user without one is left out.

    Raises:
        ValueError: nothing is published, or a value is no stored slate.
    """
    pointer: Any = redis.get(batch_key(dataset))
    lineage = Published.decode(pointer).lineage
    if not lineage:
        raise ValueError(f"no batch run of {dataset} is published")
    found: dict[int, Ids] = {}
    for start in range(0, len(user_ids), AT_A_TIME):
        some = user_ids[start : start + AT_A_TIME]
        values: Any = redis.mget([slate_key(run, user) for user in some for run in lineage])
        for at, user in enumerate(some):
            of_user = values[at * len(lineage) : (at + 1) * len(lineage)]
            value = next((v for v in of_user if v is not None), None)
            if value is not None:
                found[user] = StoredSlate.decode(value).item_ids
    return found


def as_lists(slates: Mapping[int, Ids], user_ids: Sequence[int], width: int) -> Ids:
    """Gives one row per user, (U,N); a short slate's tail and a missing one are PAD_ID."""
    lists = np.full((len(user_ids), width), PAD_ID, dtype=np.int64)
    for row, user in enumerate(user_ids):
        ids = slates.get(user, np.empty(0, dtype=np.int64))[:width]
        lists[row, : len(ids)] = ids
    return lists


def agreement(ours: Mapping[int, Ids], theirs: Mapping[int, Ids]) -> dict[str, float]:
    """Compares slates of the users whom both know: the share of equal items, and of equal places."""
    users = [user for user in ours if user in theirs]
    items = sum(len(np.intersect1d(ours[user], theirs[user])) for user in users)
    widths = [min(len(ours[user]), len(theirs[user])) for user in users]
    places = sum(int((ours[u][:w] == theirs[u][:w]).sum()) for u, w in zip(users, widths, strict=True))
    total = sum(len(ours[user]) for user in users)
    return {
        "compared_users": len(users),
        "equal_items": items / max(total, 1),
        "equal_places": places / max(total, 1),
    }
