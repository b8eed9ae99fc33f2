"""Follows the items that are put, changed or taken out while the bundle serves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from redis import Redis
from redis.exceptions import RedisError

from contract.arrays import Floats, Ids
from contract.keys import decode_tags, item_vector_key, live_changes_key, live_version_key
from ensemble.stores.catalogue import LiveItems
from ensemble.stores.vectors import VECTOR_FIELD

LOG = logging.getLogger(__name__)
POLL_S = 0.5
"""Seconds between two looks: one GET."""
Renew = Callable[[Ids, LiveItems], None]
"""Takes the items that changed (N,), and all that is known beside the bundle."""


class LiveItemsWatch:
    """Looks for changes in a thread of its own, and tells what there is now."""

    def __init__(
        self, redis: Redis, dataset: str, bundle: str, bundle_ids: Ids, width: int, filters: Mapping[str, str]
    ) -> None:
        """Takes a client of its own, the bundle, its items' ids, D, and its filterable columns."""
        self.redis, self.dataset, self.bundle, self.width = redis, dataset, bundle, width
        self._columns, self._bundle_ids = tuple(filters), bundle_ids
        self._version = 0
        self._vectors: dict[int, Floats] = {}
        self._held: dict[int, dict[str, frozenset[str]]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, renew: Renew) -> None:
        """Looks at once, then again and again."""
        self._try_to_look(renew)
        self._thread = threading.Thread(target=self._follow, args=(renew,), name="live-items", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def look(self, renew: Renew) -> bool:
        """Tells of what changed since the last look; False where nothing did.

        Raises:
            RedisError: Redis does not answer.
        """
        told: Any = self.redis.get(live_version_key(self.dataset))
        version = int(told or 0)
        if version == self._version:
            return False
        since = self._version if version > self._version else 0  # Redis was emptied
        found: Any = self.redis.zrangebyscore(live_changes_key(self.dataset), f"({since}", version)
        item_ids = np.array([int(one) for one in found], dtype=np.int64)
        self._read(item_ids)
        vectors = [*self._vectors.values()] or [np.empty((0, self.width), dtype=np.float32)]
        ids = np.fromiter(self._vectors, np.int64, len(self._vectors))
        renew(item_ids, LiveItems(ids, np.vstack(vectors), dict(self._held)))
        self._version = version
        return True

    def _read(self, item_ids: Ids) -> None:
        """Reads what the index holds of items; what is gone keeps its place, and is not available."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for item_id in item_ids.tolist():
            pipe.hmget(item_vector_key(self.bundle, item_id), VECTOR_FIELD, *self._columns)
        is_of_bundle = np.isin(item_ids, self._bundle_ids).tolist()
        for item_id, is_own, (vector, *tags) in zip(
            item_ids.tolist(), is_of_bundle, pipe.execute(), strict=True
        ):
            if vector is None and (not is_own or all(one is None for one in tags)):
                continue  # it is gone; of the bundle's own, a node of the index may have the vector
            if vector is not None and len(vector) != 4 * self.width:
                continue
            if not is_own:
                self._vectors[item_id] = np.frombuffer(vector, dtype="<f4").astype(np.float32)
            values = zip(self._columns, tags, strict=True)
            self._held[item_id] = {name: decode_tags(one) for name, one in values if one is not None}

    def _follow(self, renew: Renew) -> None:
        while not self._stop.wait(POLL_S):
            self._try_to_look(renew)

    def _try_to_look(self, renew: Renew) -> None:
        try:
            self.look(renew)
        except RedisError as error:
            LOG.warning("items that changed were not read: %s", error)
        except Exception:  # whatever it is, the next look may do
            LOG.exception("items that changed were not taken over")
