"""Watches what is served: how old it is, and whether it drifts from what its bundle was made of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from redis import Redis
from redis.exceptions import RedisError

from contract.bundle import BundleError, read_manifest
from contract.drift import REFERENCE_FILE, Reference
from contract.environment import explain_redis
from contract.errors import StageError
from contract.keys import routing_key, shown_key, watched_key
from contract.routing import Routing, RoutingError
from contract.shown import Shown
from contract.watched import EXPIRES_S, Watched
from ensemble.bundle import LoadedBundle
from ensemble.settings import EnsembleSettings
from ensemble.stores.features import RedisFeatureStore
from live.drift import DriftWindow
from live.freshness import Freshness
from live.served import ServedValues
from live.settings import LiveSettings
from live.shown import notes_in
from live.streams import entries_of

LOOK_S = 1.0
"""Seconds between two looks at what was shown."""
MOST = 10_000
"""Notes read at a look; more are passed over."""
GONE = float("nan")


class WatchGauges:
    """What is found, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        self._age = gauge(
            "shortlist_age_seconds",
            "Seconds since each feature view was written, the bundle made, slates and index computed; NaN "
            "where that is not known.",
            "of",
        )
        self._answers = gauge(
            "shortlist_drift_answers", "Answers that the distances are of; 0: not known yet."
        )
        self._psi = gauge(
            "shortlist_drift_psi", "Population stability index against the reference.", "feature"
        )
        self._divergence = gauge(
            "shortlist_drift_jensen_shannon", "Jensen-Shannon divergence in bits.", "feature"
        )
        self._drifted = gauge(
            "shortlist_drifted", "1 where both distances are beyond their thresholds.", "feature"
        )

    def show(self, found: Watched) -> None:
        """Shows a finding in place of the former one."""
        for of, age in found.ages_s.items():
            self._age.labels(of).set(GONE if age is None else age)
        self._answers.set(found.answers if found.drift else 0)
        for gauge in (self._psi, self._divergence, self._drifted):
            gauge.clear()
        for name, one in found.drift.items():
            self._psi.labels(name).set(one.psi)
            self._divergence.labels(name).set(one.jensen_shannon)
            self._drifted.labels(name).set(float(one.is_drifted))


class ServedWatch:
    """Looks once a second; what it finds stands in Redis, and on its port for Prometheus."""

    def __init__(
        self,
        redis: Redis,
        chain: EnsembleSettings,
        live: LiveSettings,
        dataset: str,
        say: Callable[[str], None],
    ) -> None:
        self._redis: Any = redis
        self._chain, self._live, self._dataset, self._say = chain, live, dataset, say
        self._freshness = Freshness(redis, dataset)
        self._rng = np.random.default_rng(0)
        self._last = "$"
        self._told: frozenset[str] = frozenset()
        self.gauges = WatchGauges()
        self.bundle: LoadedBundle | None = None
        self.window: DriftWindow | None = None
        self._values: ServedValues | None = None

    def keep(self, stop: threading.Event) -> None:
        """Watches until told to stop; a Redis that fails is said once, and asked again."""
        if self._live.watch_port:
            start_http_server(self._live.watch_port, self._live.watch_host, registry=self.gauges.registry)
        problem = ""
        while not stop.wait(LOOK_S):
            try:
                self.look()
                problem = ""
            except (RedisError, BundleError, RoutingError, StageError) as error:
                message = explain_redis(error) if isinstance(error, RedisError) else str(error)
                if message != problem:
                    self._say(f"{message}; trying again")
                    problem = message

    def look(self) -> Watched:
        """Looks once, gives what it found."""
        bundle = self._follow()
        notes = [note for note in self._read() if note.bundle == bundle.manifest.bundle]
        if len(notes) > (most := self._live.watch_answers):
            notes = [notes[at] for at in sorted(self._rng.choice(len(notes), most, replace=False))]
        assert self.window is not None
        assert self._values is not None
        if notes:
            self.window.add(len(notes), self._values.of(notes))
        found = Watched(
            at_s=time.time(),
            bundle=bundle.manifest.bundle,
            ages_s=self._freshness.ages(bundle.manifest),
            event_lag_s=self._freshness.event_lag_s(),
            answers=self.window.answers,
            wanted=self._live.drift_answers,
            drift=self.window.drift(),
        )
        self.gauges.show(found)
        self._redis.set(watched_key(self._dataset), found.model_dump_json(), ex=EXPIRES_S)
        self._tell(found)
        return found

    def _tell(self, found: Watched) -> None:
        drifted = frozenset(found.drifted)
        if drifted and drifted != self._told:
            self._say(found.lines()[-1])
        self._told = drifted

    def _follow(self) -> LoadedBundle:
        """Opens the champion where it is another than before; its window begins anew. A link to another data
        set's bundle is not followed."""
        value = self._redis.get(routing_key(self._dataset))
        folder = self._chain.bundle.resolve()
        if value is not None:
            folder = folder.parent / Routing.decode(value).champion
        if self.bundle is None or self.bundle.folder != folder:
            if self.bundle is not None and read_manifest(folder, verify=False).dataset != self._dataset:
                return self.bundle
            bundle = LoadedBundle.open(folder, self._chain.provider, self._chain.ort_threads)
            clock, max_seen = bundle.dataset.clock, self._chain.max_seen
            features = RedisFeatureStore(self._redis, bundle.dataset, clock, max_seen)
            self._values = ServedValues(bundle, features)
            live = self._live
            self.window = DriftWindow(
                reference_of(folder), live.drift_answers, live.drift_psi, live.drift_jensen_shannon
            )
            self.bundle = bundle
            self._say(f"watching {bundle.manifest.bundle}")
        return self.bundle

    def _read(self) -> list[Shown]:
        """Reads what was shown since the last look; more than can be read is passed over."""
        stream = shown_key(self._dataset)
        if self._last == "$":
            newest = self._redis.xrevrange(stream, count=1)
            self._last = newest[0][0].decode() if newest else "0-0"
            return []
        found = self._redis.xrange(stream, f"({self._last}", "+", count=MOST)
        if not found:
            return []
        self._last = found[-1][0].decode()
        if len(found) == MOST:
            self._last = "$"
        return notes_in(entries_of(stream, found))


def reference_of(folder: Path) -> Reference:
    """Reads a bundle's reference; an empty one of a bundle that was made before there were any.

    Raises:
        BundleError: it is damaged.
    """
    path = folder / REFERENCE_FILE
    try:
        return Reference.model_validate_json(path.read_text("utf-8")) if path.is_file() else Reference()
    except ValueError as error:
        raise BundleError(f"{path}: not a reference: {error}; train again") from None
