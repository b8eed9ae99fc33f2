"""Which training was begun last: whoever begins one writes it, and the schedule looks there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis

from contract.events import PARTITIONS
from contract.keys import event_stream_key, retrained_key


@dataclass(frozen=True)
class Tried:
    """The last training that was begun: when, Unix time in seconds, how many events had come until then, why,
    and with which status it ended; None while it is at work, or where it was killed."""

    at_s: float
    events: int
    reason: str = ""
    status: int | None = None


class TriedTrainings:
    """Keeps in Redis which training of a data set was tried last. Every method raises `RedisError` where
    Redis does not answer."""

    def __init__(self, redis: Redis, dataset: str) -> None:
        self._redis: Any = redis
        self._dataset = dataset

    def last(self) -> Tried | None:
        """Gives the last one; None where none is known."""
        value = self._redis.get(retrained_key(self._dataset))
        return None if value is None else Tried(**json.loads(value))

    def keep(self, tried: Tried) -> None:
        """Writes one in place of the last."""
        self._redis.set(retrained_key(self._dataset), json.dumps(asdict(tried)))

    def events(self) -> int:
        """Counts the events that ever came."""
        pipe: Any = self._redis.pipeline(transaction=False)
        for partition in range(PARTITIONS):
            pipe.xinfo_stream(event_stream_key(self._dataset, partition))
        replies = pipe.execute(raise_on_error=False)
        return sum(int(one["entries-added"]) for one in replies if not isinstance(one, Exception))
