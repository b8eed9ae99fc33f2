"""What the gateway counts, for Prometheus: a class for each subject, in it an attribute for each metric."""

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


class MetricRegistry(CollectorRegistry):
    """Makes metrics. Finding a series by its labels takes longer than counting in it; there are few, and they
    are kept."""

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Makes one that shows a number."""
        return Gauge(name, text, labels, registry=self)

    def counter(self, name: str, text: str, labels: Sequence[str]) -> Callable[..., None]:
        """Makes one that is called with its labels' values, to count one more, or `by` more."""
        series = cache(Counter(name, text, labels, registry=self).labels)

        def count(*values: object, by: float = 1) -> None:
            series(*values).inc(by)

        return count

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Callable[..., None]:
        """Makes one that is called with a number, seconds by default, and its labels' values."""
        whole = Histogram(name, text, labels, registry=self, buckets=buckets)
        series = cache(whole.labels)

        def observe(number: float, *values: object) -> None:
            (series(*values) if values else whole).observe(number)

        return observe


class AnswerMetrics:
    """What became of requests, and how long it took."""

    def __init__(self, to: MetricRegistry) -> None:
        self.recommended = to.counter(
            "shortlist_requests",
            "Recommendation requests, by who made the slate (none: no slate) and HTTP status.",
            ["source", "status"],
        )
        self.responded = to.histogram(
            "shortlist_request_seconds",
            "Seconds from the first byte in to the last byte out, by route.",
            ["route"],
        )
        self._stage = to.histogram(
            "shortlist_stage_seconds",
            "Seconds per stage: those inside the ensemble, then ensemble (the whole call), batch, popular, "
            "display.",
            ["stage"],
        )
        self._lacks = to.counter("shortlist_degraded", "Answers that lack something, by what.", ["reason"])
        self.stepped = to.counter(
            "shortlist_steps",
            "Steps of the ladder that were tried, by how each ended: answered, busy, late, unavailable, "
            "missing, other_bundle.",
            ["step", "outcome"],
        )
        self.refused = to.counter(
            "shortlist_refused",
            "Requests and connections refused before a route saw them, by reason.",
            ["reason"],
        )
        self.noted = to.counter(
            "shortlist_shown",
            "Answers that were sent, by what became of their note: noted, full (the buffer was), redis (it "
            "was away or slow).",
            ["outcome"],
        )
        self.called = to.counter("shortlist_calls", "Requests with a known API key, by caller.", ["caller"])

    def answered(self, degraded: Sequence[str], timings_ms: Mapping[str, float]) -> None:
        """Counts one slate: what it lacks, and its stages' times."""
        for reason in degraded:
            self._lacks(reason)
        for stage, ms in timings_ms.items():
            if stage != "total":
                self._stage(ms / 1000, stage)


class LoadMetrics:
    """What the process and the servers behind it have to do, and may have."""

    def __init__(self, to: MetricRegistry) -> None:
        self._in_flight = to.gauge("shortlist_in_flight", "Requests that wait for the ensemble now.")
        self._most_in_flight = to.gauge(
            "shortlist_in_flight_limit", "Requests that may wait for the ensemble now."
        )
        self._in_process = to.gauge(
            "shortlist_in_process", "Requests in the process now, health not counted."
        )
        self._most_in_process = to.gauge(
            "shortlist_in_process_limit",
            "Requests that may be in the process now: fewer while its event loop keeps coming late.",
        )
        self._loop_late = to.histogram(
            "shortlist_loop_late_seconds",
            "Seconds by which the event loop came late, looked at every ten milliseconds.",
        )
        self._quality = to.gauge(
            "shortlist_quality",
            "Share of the candidates that the ensemble is asked to consider; 0: without the ranker too.",
        )
        self._circuits = to.gauge(
            "shortlist_circuit_open",
            "Circuit breaker of a server: 0 closed, 0.5 half open (one request tries), 1 open (none asks).",
            ["dependency"],
        )

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
        self._loop_late(max(0.0, by_s))

    def watch_circuit(self, dependency: str, circuit: Callable[[], Circuit]) -> None:
        """Shows the state of a circuit, the champion's, whenever the metrics are read."""
        self._circuits.labels(dependency).set_function(lambda: _OPEN[circuit().state])


class ServedMetrics:
    """Which bundles answer, and how old what they read is."""

    def __init__(self, to: MetricRegistry, dataset: str) -> None:
        self._dataset = dataset
        self._info = to.gauge(
            "shortlist_bundle_info",
            "The bundles that answer, by arm; always 1.",
            ["bundle", "dataset", "arm"],
        )
        self.bundle_refused = to.counter(
            "shortlist_bundles_refused",
            "Bundles that the routing record names and this process does not serve, by each try.",
            ["bundle"],
        )
        self.arm_ended = to.counter(
            "shortlist_arms_ended",
            "Arms that were taken out, as too many of their answers failed or were degraded.",
            ["arm"],
        )
        self._batch_age = to.gauge(
            "shortlist_batch_age_seconds",
            "Seconds since the batch runs that are read began: the newest, and the oldest, which serves "
            "those whom no newer one computed. NaN where none is published.",
            ["run"],
        )
        self._features_age = to.gauge(
            "shortlist_features_age_seconds",
            "Seconds since features were last brought to Redis; NaN where that is not known.",
        )
        self._features_age.set(math.nan)

    def serves(self, bundles: Mapping[str, str]) -> None:
        """Shows which bundle answers, by arm."""
        self._info.clear()
        for arm, bundle in bundles.items():
            self._info.labels(bundle, self._dataset, arm).set(1)
            if arm != CHAMPION:
                self.arm_ended(arm, by=0)  # of a series that begins at 1 Prometheus sees no increase

    def watch_batch(self, published: Callable[[], Published]) -> None:
        """Shows how old the published batch runs are whenever the metrics are read."""
        for name, place in (("newest", 0), ("oldest", -1)):
            self._batch_age.labels(name).set_function(partial(_age_s, published, place))

    def features_are_of(self, at_s: float) -> None:
        """Shows how old the features are that were brought to Redis at this Unix time."""
        self._features_age.set(max(0.0, time.time() - at_s))


def _age_s(published: Callable[[], Published], place: int) -> float:
    lineage = published().lineage
    began_s = run_began_s(lineage[place]) if lineage else None
    return math.nan if began_s is None else max(0.0, time.time() - began_s)


class EventMetrics:
    """What became of events."""

    def __init__(self, to: MetricRegistry) -> None:
        self._taken = to.counter(
            "shortlist_events", "Events that were accepted, and duplicates of such, by outcome.", ["outcome"]
        )
        self.refused = to.counter(
            "shortlist_events_refused",
            "Wrong events, and requests with events for which there was no room (backlog), by reason.",
            ["reason"],
        )
        self.unknown = to.counter(
            "shortlist_events_unknown",
            "Events of users and items of whom Redis holds nothing, by what became of them.",
            ["kind", "outcome"],
        )
        self._lag = to.gauge("shortlist_event_lag", "Accepted events that had no effect yet.")
        self._lag_seconds = to.gauge(
            "shortlist_event_lag_seconds", "Seconds for which the oldest of them has waited."
        )
        self._backlog = to.gauge(
            "shortlist_event_backlog",
            "Events in Redis' streams, those included that wait for the archive alone.",
        )

    def taken(self, accepted: int, duplicates: int) -> None:
        """Counts the right events of one request."""
        self._taken("accepted", by=accepted)
        self._taken("duplicate", by=duplicates)

    def waiting(self, events: int, seconds: float, backlog: int) -> None:
        """Shows how far the consumer is."""
        self._lag.set(events)
        self._lag_seconds.set(seconds)
        self._backlog.set(backlog)


class ShadowMetrics:
    """How the shadow's slates differ from the champion's."""

    def __init__(self, to: MetricRegistry) -> None:
        self.requested = to.counter(
            "shortlist_shadow",
            "Slates asked of the shadow, by outcome: compared, failed, spared (there was no capacity).",
            ["outcome"],
        )
        self._overlap = to.histogram(
            "shortlist_shadow_overlap",
            "Share of the first ten items that the shadow's slate has as well.",
            buckets=[tenth / 10 for tenth in range(11)],
        )
        self._score_shift = to.histogram(
            "shortlist_shadow_score_shift",
            "By how much the mean score of the shadow's first ten items is higher.",
            buckets=(*(-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0.0), *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5)),
        )
        self._seconds = to.histogram(
            "shortlist_shadow_seconds",
            "Seconds of the same requests, of the champion and of the shadow.",
            ["of"],
        )

    def compared(self, overlap: float, score_shift: float, shadow_s: float, champion_s: float) -> None:
        """Takes how the shadow's slate differs from the champion's, and the seconds of both."""
        self._overlap(overlap)
        if not math.isnan(score_shift):
            self._score_shift(score_shift)
        self._seconds(shadow_s, "shadow")
        self._seconds(champion_s, CHAMPION)


class Metrics:
    """One registry per app, so that two apps in a process do not share counts."""

    def __init__(self, bundle: str, dataset: str) -> None:
        self._registry = MetricRegistry()
        self.answers = AnswerMetrics(self._registry)
        self.load = LoadMetrics(self._registry)
        self.served = ServedMetrics(self._registry, dataset)
        self.events = EventMetrics(self._registry)
        self.shadow = ShadowMetrics(self._registry)
        self.served.serves({CHAMPION: bundle})

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)
