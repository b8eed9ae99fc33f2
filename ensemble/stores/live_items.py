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
from contract.item_to_item import UNKNOWN
from contract.keys import decode_tags, item_vector_key, live_changes_key, live_version_key
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.vectors import VECTOR_FIELD

LOG = logging.getLogger(__name__)
POLL_S = 0.5
"""Seconds between two looks: one GET."""
SAME = 1e-4
"""Up to which a coordinate is the same as the bundle's: the tower in another batch rounds otherwise."""
Renew = Callable[[Ids, LiveItems], None]
"""Takes the items that changed (N,), and all that is known beside the bundle."""


class LiveItemsWatch:
    """Looks for changes in a thread of its own, and tells what there is now."""

    def __init__(
        self, redis: Redis, dataset: str, bundle: str, catalogue: Catalogue, filters: Mapping[str, str]
    ) -> None:
        """Takes a client of its own, the bundle, its items, and its filterable columns."""
        self.redis, self.dataset, self.bundle = redis, dataset, bundle
        self._columns, self._catalogue = tuple(filters), catalogue
        self._version = 0
        self._vectors: dict[int, Floats] = {}
        self._moved: dict[int, Floats] = {}
        self._held: dict[int, dict[str, frozenset[str]]] = {}
        self._gone: set[int] = set()
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
        value: Any = self.redis.get(live_version_key(self.dataset))
        version = int(value or 0)
        if version == self._version:
            return False
        since = self._version if version > self._version else 0  # Redis was emptied
        found: Any = self.redis.zrangebyscore(live_changes_key(self.dataset), f"({since}", version)
        item_ids = np.array([int(one) for one in found], dtype=np.int64)
        self._read(item_ids)
        moved, gone = dict(sorted(self._moved.items())), np.array(sorted(self._gone), dtype=np.int64)
        renew(item_ids, LiveItems(*self._table(self._vectors), dict(self._held), *self._table(moved), gone))
        self._version = version
        return True

    def _read(self, item_ids: Ids) -> None:
        """Reads what the index holds of items; what is gone keeps its place, and is not available."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for item_id in item_ids.tolist():
            pipe.hmget(item_vector_key(self.bundle, item_id), VECTOR_FIELD, *self._columns)
        places = self._catalogue.bundle_positions.of(item_ids).tolist()
        for item_id, place, (blob, *tags) in zip(item_ids.tolist(), places, pipe.execute(), strict=True):
            if blob is None and place == UNKNOWN:
                self._gone.add(item_id)
                continue
            if blob is None and all(one is None for one in tags):
                continue  # it is gone; of the bundle's own that did not change, a node may have the vector
            if blob is not None and len(blob) != 4 * self._catalogue.width:
                continue
            if blob is not None:
                self._take(item_id, place, np.frombuffer(blob, dtype="<f4").astype(np.float32))
            values = zip(self._columns, tags, strict=True)
            self._held[item_id] = {name: decode_tags(one) for name, one in values if one is not None}

    def _take(self, item_id: int, place: int, vector: Floats) -> None:
        self._gone.discard(item_id)
        if place == UNKNOWN:
            self._vectors[item_id] = vector
        elif np.allclose(vector, self._catalogue.vectors[place], atol=SAME):
            self._moved.pop(item_id, None)
        else:
            self._moved[item_id] = vector

    def _table(self, vectors: Mapping[int, Floats]) -> tuple[Ids, Floats]:
        """Gives ids (N,) and vectors (N,D)."""
        none = np.empty((0, self._catalogue.width), dtype=np.float32)
        return np.fromiter(vectors, np.int64, len(vectors)), np.vstack([none, *vectors.values()])

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
