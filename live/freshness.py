"""How old what is served is, as Redis tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from redis import Redis

from contract import names
from contract.bundle import Manifest
from contract.events import GROUP, PARTITIONS
from contract.keys import batch_key, bundles_key, event_stream_key, materialized_at_key, run_began_s
from contract.slates import Published
from live.streams import positions_of

BUNDLE, SLATES, INDEX = "bundle", "slates", "index"


class Freshness:
    """Asks Redis for the ages of a data set's features, slates and index."""

    def __init__(self, redis: Redis, dataset: str, now_s: Callable[[], float] = time.time) -> None:
        self._redis: Any = redis
        self._dataset, self._now_s = dataset, now_s

    def ages(self, manifest: Manifest) -> dict[str, float | None]:
        """Gives the ages in seconds, by what they are of; None where that is not known.

        Activity is as old as the last event that had its effect, if no materialisation came later.
        """
        pipe: Any = self._redis.pipeline(transaction=False)
        pipe.get(materialized_at_key(self._dataset))
        pipe.get(batch_key(self._dataset))
        pipe.zscore(bundles_key(self._dataset), manifest.bundle)
        materialized, published, indexed = pipe.execute()
        features_s = float(materialized) if materialized else None
        last_s = max((int(one.partition("-")[0]) / 1000 for one in self._handled().values()), default=0.0)
        activity_s = max(features_s or 0.0, last_s) or None
        lineage = Published.decode(published).lineage
        instants = {
            **dict.fromkeys((names.USER_PROFILE, names.ITEM_CATALOG), features_s),
            **dict.fromkeys((names.USER_ACTIVITY, names.ITEM_ACTIVITY), activity_s),
            BUNDLE: datetime.fromisoformat(manifest.created_at).timestamp(),
            SLATES: run_began_s(lineage[0]) if lineage else None,
            INDEX: indexed,
        }
        now_s = self._now_s()
        return {of: None if at is None else max(0.0, now_s - at) for of, at in instants.items()}

    def event_lag_s(self) -> float:
        """Gives how many seconds the oldest event waits that had no effect yet; 0 where none does."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for partition, last in (handled := self._handled()).items():
            pipe.xrange(event_stream_key(self._dataset, partition), f"({last}", "+", count=1)
        waiting = pipe.execute() if handled else []
        instants = [int(found[0][0].partition(b"-")[0]) / 1000 for found in waiting if found]
        return max((self._now_s() - at for at in instants), default=0.0)

    def _handled(self) -> dict[int, str]:
        """Gives by partition the id of the last event that had its effect; none where no stream is."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.xinfo_groups(event_stream_key(self._dataset, partition))
        replies = pipe.execute(raise_on_error=False)
        groups = [{} if isinstance(reply, Exception) else positions_of(reply) for reply in replies]
        return {place: found[GROUP].last for place, found in enumerate(groups) if GROUP in found}
