"""What the gateway counts, for Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from contract.keys import run_began_s
from contract.routing import CHAMPION
from contract.slates import Published
from service.limits.adaptive import EnsembleLimits
from service.limits.circuits import Circuit
from service.limits.event_loop import EventLoopLimit

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside every series

_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
)

_OPEN = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


def _age_s(published: Callable[[], Published], place: int) -> float:
    lineage = published().lineage
    began_s = run_began_s(lineage[place]) if lineage else None
    return math.nan if began_s is None else max(0.0, time.time() - began_s)


class Metrics:
    """One registry per app, so that two apps in a process do not share counts."""

    def __init__(self, bundle: str, dataset: str) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "shortlist_requests",
            "Recommendation requests, by who made the slate (none: no slate) and HTTP status.",
            ["source", "status"],
            registry=self.registry,
        )
        self._http_seconds = Histogram(
            "shortlist_request_seconds",
            "Seconds from the first byte in to the last byte out, by route.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stage_seconds = Histogram(
            "shortlist_stage_seconds",
            "Seconds per stage: those inside the ensemble, then ensemble (the whole call), batch, popular, "
            "display.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._degraded = Counter(
            "shortlist_degraded", "Answers that lack something, by what.", ["reason"], registry=self.registry
        )
        self._steps = Counter(
            "shortlist_steps",
            "Steps of the ladder that were tried, by how each ended: answered, busy, late, unavailable, "
            "missing, other_bundle.",
            ["step", "outcome"],
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "shortlist_in_flight", "Requests that wait for the ensemble now.", registry=self.registry
        )
        self._most_in_flight = Gauge(
            "shortlist_in_flight_limit",
            "Requests that may wait for the ensemble now.",
            registry=self.registry,
        )
        self._in_process = Gauge(
            "shortlist_in_process", "Requests in the process now, health not counted.", registry=self.registry
        )
        self._most_in_process = Gauge(
            "shortlist_in_process_limit",
            "Requests that may be in the process now: fewer while its event loop keeps coming late.",
            registry=self.registry,
        )
        self._loop_late_seconds = Histogram(
            "shortlist_loop_late_seconds",
            "Seconds by which the event loop came late, looked at every ten milliseconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._quality = Gauge(
            "shortlist_quality",
            "Share of the candidates that the ensemble is asked to consider; 0: without the ranker too.",
            registry=self.registry,
        )
        self._batch_age = Gauge(
            "shortlist_batch_age_seconds",
            "Seconds since the batch runs that are read began: the newest, and the oldest, which serves "
            "those whom no newer one computed. NaN where none is published.",
            ["run"],
            registry=self.registry,
        )
        self._features_age = Gauge(
            "shortlist_features_age_seconds",
            "Seconds since features were last brought to Redis; NaN where that is not known.",
            registry=self.registry,
        )
        self._features_age.set(math.nan)
        self._circuits = Gauge(
            "shortlist_circuit_open",
            "Circuit breaker of a server: 0 closed, 0.5 half open (one request tries), 1 open (none asks).",
            ["dependency"],
            registry=self.registry,
        )
        self._refused = Counter(
            "shortlist_refused",
            "Requests and connections refused before a route saw them, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._shown = Counter(
            "shortlist_shown",
            "Answers that were sent, by what became of their note: noted, full (the buffer was), redis (it "
            "was away or slow).",
            ["outcome"],
            registry=self.registry,
        )
        self._calls = Counter(
            "shortlist_calls", "Requests with a known API key, by caller.", ["caller"], registry=self.registry
        )
        self._events = Counter(
            "shortlist_events",
            "Events that were accepted, and duplicates of such, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self._events_refused = Counter(
            "shortlist_events_refused",
            "Wrong events, and requests with events for which there was no room (backlog), by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._events_unknown = Counter(
            "shortlist_events_unknown",
            "Events of users and items of whom Redis holds nothing, by what became of them.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._event_lag = Gauge(
            "shortlist_event_lag", "Accepted events that had no effect yet.", registry=self.registry
        )
        self._event_lag_seconds = Gauge(
            "shortlist_event_lag_seconds",
            "Seconds for which the oldest of them has waited.",
            registry=self.registry,
        )
        self._event_backlog = Gauge(
            "shortlist_event_backlog",
            "Events in Redis' streams, those included that wait for the archive alone.",
            registry=self.registry,
        )
        # Finding a series by its labels takes longer than counting in it; there are few, and they are kept.
        self._of_stage = cache(self._stage_seconds.labels)
        self._of_route = cache(self._http_seconds.labels)
        self._of_answer = cache(self._requests.labels)
        self._of_step = cache(self._steps.labels)
        self._info = Gauge(
            "shortlist_bundle_info",
            "The bundles that answer, by arm; always 1.",
            ["bundle", "dataset", "arm"],
            registry=self.registry,
        )
        self._dataset = dataset
        self.serves({CHAMPION: bundle})
        self._bundles_refused = Counter(
            "shortlist_bundles_refused",
            "Bundles that the routing record names and this process does not serve, by each try.",
            ["bundle"],
            registry=self.registry,
        )
        self._arms_ended = Counter(
            "shortlist_arms_ended",
            "Arms that were taken out, as too many of their answers failed or were degraded.",
            ["arm"],
            registry=self.registry,
        )
        self._shadowed = Counter(
            "shortlist_shadow",
            "Slates asked of the shadow, by outcome: compared, failed, spared (there was no capacity).",
            ["outcome"],
            registry=self.registry,
        )
        self._overlap = Histogram(
            "shortlist_shadow_overlap",
            "Share of the first ten items that the shadow's slate has as well.",
            buckets=[tenth / 10 for tenth in range(11)],
            registry=self.registry,
        )
        self._score_shift = Histogram(
            "shortlist_shadow_score_shift",
            "By how much the mean score of the shadow's first ten items is higher.",
            buckets=(*(-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0.0), *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5)),
            registry=self.registry,
        )
        self._side_by_side = Histogram(
            "shortlist_shadow_seconds",
            "Seconds of the same requests, of the champion and of the shadow.",
            ["of"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def serves(self, bundles: Mapping[str, str]) -> None:
        """Shows which bundle answers, by arm."""
        self._info.clear()
        for arm, bundle in bundles.items():
            self._info.labels(bundle, self._dataset, arm).set(1)
            if arm != CHAMPION:
                self._arms_ended.labels(arm)  # at 0: of a series that begins at 1 Prometheus sees no increase

    def bundle_refused(self, bundle: str) -> None:
        """Counts a bundle that is not served though the record names it."""
        self._bundles_refused.labels(bundle).inc()

    def arm_ended(self, arm: str) -> None:
        """Counts an arm that was taken out."""
        self._arms_ended.labels(arm).inc()

    def shadowed(self, outcome: str) -> None:
        """Counts one slate that the shadow was asked for, or spared."""
        self._shadowed.labels(outcome).inc()

    def compared(self, overlap: float, score_shift: float, shadow_s: float, champion_s: float) -> None:
        """Takes how the shadow's slate differs from the champion's, and the seconds of both."""
        self._overlap.observe(overlap)
        if not math.isnan(score_shift):
            self._score_shift.observe(score_shift)
        self._side_by_side.labels("shadow").observe(shadow_s)
        self._side_by_side.labels(CHAMPION).observe(champion_s)

    def watch_circuit(self, dependency: str, circuit: Callable[[], Circuit]) -> None:
        """Shows the state of a circuit, the champion's, whenever the metrics are read."""
        self._circuits.labels(dependency).set_function(lambda: _OPEN[circuit().state])

    def watch_ensemble(self, limits: Callable[[], Sequence[EnsembleLimits]]) -> None:
        """Shows what the bundles that answer are asked for now, all together, whenever the metrics are read;
        of the quality, the lowest."""
        self._in_flight.set_function(lambda: sum(one.in_flight.in_flight for one in limits()))
        self._most_in_flight.set_function(lambda: sum(one.in_flight.value for one in limits()))
        self._quality.set_function(lambda: min(one.quality.value for one in limits()))

    def watch_event_loop(self, limit: EventLoopLimit, in_process: Callable[[], float]) -> None:
        """Shows how many requests are in the process, and may be, whenever the metrics are read."""
        self._in_process.set_function(in_process)
        self._most_in_process.set_function(lambda: limit.value)

    def loop_came_late(self, by_s: float) -> None:
        """Counts one look at the event loop."""
        self._loop_late_seconds.observe(max(0.0, by_s))

    def watch_batch(self, published: Callable[[], Published]) -> None:
        """Shows how old the published batch runs are whenever the metrics are read."""
        for name, place in (("newest", 0), ("oldest", -1)):
            age = partial(_age_s, published, place)
            self._batch_age.labels(name).set_function(age)

    def features_are_of(self, at_s: float) -> None:
        """Shows how old the features are that were brought to Redis at this Unix time."""
        self._features_age.set(max(0.0, time.time() - at_s))

    def events_taken(self, accepted: int, duplicates: int) -> None:
        """Counts the right events of one request."""
        self._events.labels("accepted").inc(accepted)
        self._events.labels("duplicate").inc(duplicates)

    def event_refused(self, reason: str) -> None:
        """Counts a wrong event."""
        self._events_refused.labels(reason).inc()

    def event_unknown(self, kind: str, outcome: str) -> None:
        """Counts an event whose user, or item, is not known."""
        self._events_unknown.labels(kind, outcome).inc()

    def events_wait(self, events: int, seconds: float, backlog: int) -> None:
        """Shows how far the consumer is."""
        self._event_lag.set(events)
        self._event_lag_seconds.set(seconds)
        self._event_backlog.set(backlog)

    def stepped(self, step: str, outcome: str) -> None:
        """Counts one try of a step of the ladder."""
        self._of_step(step, outcome).inc()

    def answered(self, degraded: Sequence[str], timings_ms: Mapping[str, float]) -> None:
        """Counts one slate: what it lacks, and its stages' times."""
        for reason in degraded:
            self._degraded.labels(reason).inc()
        for stage, ms in timings_ms.items():
            if stage != "total":
                self._of_stage(stage).observe(ms / 1000)

    def responded(self, route: str, seconds: float) -> None:
        """Counts one response on any route."""
        self._of_route(route).observe(seconds)

    def recommended(self, source: str, status: int) -> None:
        """Counts one slate that was asked for, and the status of the response."""
        self._of_answer(source, str(status)).inc()

    def refused(self, reason: str) -> None:
        """Counts a request or a connection that no route saw."""
        self._refused.labels(reason).inc()

    def noted(self, answers: int, outcome: str) -> None:
        """Counts what became of the notes of so many answers."""
        self._shown.labels(outcome).inc(answers)

    def called(self, caller: str) -> None:
        """Counts a request of a known caller."""
        self._calls.labels(caller).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
