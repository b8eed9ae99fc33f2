"""Keeps the bundles of the routing record loaded in Triton, and unloads what has left it, after a grace.

Runs beside the watch of a Triton, which starts with no model. So a Triton that was replaced gets back what is
served, the champion first; and a bundle that does not load takes no other with it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException

from redis import Redis
from redis.exceptions import RedisError

from contract.bundle import BundleError, read_manifest
from contract.routing import RoutingError
from ensemble.settings import EnsembleSettings
from ensemble.stores.client import connect
from ensemble.stores.routing import read_routing
from ensemble.triton.repository import LoadError, ModelRepository

EVERY_S = 0.5
"""Seconds between two looks."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
"""Seconds until a bundle that did not load is tried again; each time twice as many."""


class BundleKeeper:
    """Compares what the record names with what Triton holds, and mends the difference."""

    def __init__(
        self,
        repository: ModelRepository,
        redis: Redis,
        settings: EnsembleSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository, self._redis, self._settings, self._clock = repository, redis, settings, clock
        self._wanted: tuple[str, ...] = ()
        self._left: dict[str, float] = {}
        self._retry: dict[str, tuple[float, float]] = {}

    def look(self) -> None:
        """Loads the first bundle that is missing; where none is, unloads what left the record long enough
        ago. A Triton that does not answer is the watch's affair."""
        wanted = self._read()
        with suppress(OSError, HTTPException, ValueError):
            states = self._repository.states()
            held = {model for model, state in states.items() if state != "UNAVAILABLE"}
            now_s = self._clock()
            self._left = {model: self._left.get(model, now_s) for model in held - set(wanted)}
            due = [one for one in wanted if one not in held and self._retry.get(one, (0.0, 0.0))[0] <= now_s]
            if due:
                self._load(due[0])
                return
            for model, since_s in self._left.items():
                if now_s - since_s > self._settings.unload_after_s:
                    self._unload(model)

    def run(self) -> None:
        """Looks again and again, for ever."""
        while True:
            self.look()
            time.sleep(EVERY_S)

    def _read(self) -> tuple[str, ...]:
        """What the record names; where Redis does not answer, what it named before, at first the link."""
        try:
            self._wanted = read_routing(self._redis, self._settings.bundle).routing.bundles
        except (RedisError, RoutingError) as error:
            if not self._wanted:
                _say(f"{error}; loading what {self._settings.bundle} is")
                self._wanted = self._linked()
        except BundleError:  # nothing was promoted yet
            self._wanted = ()
        return self._wanted

    def _linked(self) -> tuple[str, ...]:
        with suppress(BundleError):
            return (read_manifest(self._settings.bundle, verify=False).bundle,)
        return ()

    def _load(self, bundle: str) -> None:
        started = self._clock()
        try:
            self._repository.load(bundle, self._settings.load_timeout_s)
        except LoadError as error:
            pause_s = min(2 * self._retry.get(bundle, (0.0, FIRST_PAUSE_S / 2))[1], LONGEST_PAUSE_S)
            self._retry[bundle] = (self._clock() + pause_s, pause_s)
            _say(f"{error}; tried again in {pause_s:g} s")
        else:
            self._retry.pop(bundle, None)
            _say(f"{bundle}: loaded in {self._clock() - started:.1f} s")

    def _unload(self, bundle: str) -> None:
        try:
            self._repository.unload(bundle)
        except LoadError as error:
            _say(str(error))
        else:
            _say(f"{bundle}: unloaded, as it is not served any more")


def keeper_of(host: str, port: int, settings: EnsembleSettings) -> BundleKeeper:
    """The keeper of the Triton at an address, and of the Redis of the settings."""
    redis = connect(settings.redis_url, settings.redis_timeout_ms)
    return BundleKeeper(ModelRepository(host, port), redis, settings)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
