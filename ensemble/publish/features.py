"""Looks whether Redis holds the features that a bundle reads, before it takes the place of one whose are
there."""

from __future__ import annotations

import numpy as np
from redis import Redis

from contract.arrays import Ids
from contract.bundle import Manifest
from contract.dataset import Dataset
from ensemble.stores.features import FeatureRows, RedisFeatureStore

LOOKS = 100
"""Items, and users, that are looked at."""


class FeaturesMissing(RuntimeError):
    """Says which columns are missing, and what to do."""


def check_features(redis: Redis, manifest: Manifest, dataset: Dataset, item_ids: Ids) -> None:
    """Looks at some of a bundle's users and items. Where Redis holds none of them there is nothing to lose,
    and nothing is said.

    Raises:
        FeaturesMissing: what Redis holds of them has not the bundle's columns, or has them otherwise.
    """
    store = RedisFeatureStore(redis, dataset, dataset.clock)
    step = max(1, len(item_ids) // LOOKS)
    users = store.read_users(np.array(manifest.sample_users[:LOOKS], dtype=np.int64))
    if any(map(_lack_all, (users, store.read_items(item_ids[::step])))):
        raise FeaturesMissing(
            f"{manifest.bundle} reads {', '.join(store.lacking)}, which Redis has otherwise or not at all: "
            "what is served stays; run `make materialize` with the bundle's data set, then `make export` "
            "again, or `make export FORCE=1`, which takes them for null"
        )


def _lack_all(rows: FeatureRows) -> bool:
    """Whether every row that is there lacks something; one alone may be damaged."""
    return bool(rows.is_found.any() and rows.is_lacking[rows.is_found].all())
