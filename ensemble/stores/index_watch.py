"""Knows whether the vector index holds every item: a Redis that was restarted may still be building it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contract.keys import index_name

LOG = logging.getLogger(__name__)
EVERY_S = 1.0
"""Seconds between two looks at an index that is not whole."""
SHARE = 0.02
"""Most of Redis' time that looking may take: FT.INFO walks a graph, 60 ms for a million items."""


def index_info(redis: Redis, bundle: str) -> dict[str, Any]:
    """Asks what Redis knows of a bundle's index: FT.INFO.

    Raises:
        ResponseError: there is no such index.
    """
    run: Any = redis.execute_command
    reply = run("FT.INFO", index_name(bundle))
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in pairs}


def pause_s(took_s: float, least_s: float) -> float:
    """Gives how long to wait after a look that took so long, all in seconds."""
    return max(least_s, took_s / SHARE)


class IndexWatch:
    """Looks at the bundle's index in the background until it holds every item.

    What was whole stays so in the same run of Redis, unless `doubt` says otherwise. A request that meets
    another run finds the index in doubt, at once and without a round trip, and wakes the watch. Until
    `start`, everything counts as whole.
    """

    def __init__(self, redis: Redis, bundle: str, items: int, server: Callable[[], str]) -> None:
        """Takes a client of its own, how many items are whole, and what names the run of Redis that requests
        are connected to, empty before the first."""
        self.redis, self.bundle, self.items, self._server = redis, bundle, items, server
        self.found = 0
        """Items that the index held at the last look."""
        self._whole_in = self._looked_at = ""
        self._pause_s = EVERY_S
        self._wake, self._is_over = threading.Event(), False
        self._thread: threading.Thread | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found; asked before and after each search."""
        if self._thread is None:
            return True
        server = self._server()
        if self._whole_in and server in ("", self._whole_in):
            return True
        if server != self._looked_at:
            self._wake.set()
        return False

    @property
    def share(self) -> float:
        """The part of the items that the index held at the last look, 0 to 1."""
        return min(1.0, self.found / self.items) if self.items else 1.0

    def start(self) -> None:
        """Looks once, then in a background thread."""
        self.look()
        self._thread = threading.Thread(target=self._run, name="index-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the background thread."""
        self._is_over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def doubt(self) -> None:
        """Takes back that the index is whole: it was found missing."""
        self._whole_in = self._looked_at = ""

    def look(self) -> None:
        """Asks Redis once; where it does not answer, or has no such index, the index is not known to be
        whole."""
        began_s, server = time.perf_counter(), self._server()
        try:
            run = str(self.redis.info("server")["run_id"])
            if run != self._whole_in:
                told = index_info(self.redis, self.bundle)
                self.found = int(told["num_docs"])
                is_built = not float(told["indexing"]) and self.found >= self.items
                self._whole_in = run if is_built else ""
                LOG.info("the index holds %d of %d items", self.found, self.items)
        except (RedisError, OSError, KeyError) as error:
            self._whole_in = ""
            LOG.warning("whether the index is whole cannot be told: %r", error)
        self._looked_at = server
        self._pause_s = pause_s(time.perf_counter() - began_s, EVERY_S)

    def _run(self) -> None:
        while True:
            self._wake.wait(None if self._whole_in else self._pause_s)
            if self._is_over:
                return
            self._wake.clear()
            self.look()
