"""The first step of the ladder: the ensemble, asked for no more than it answers in time."""

from __future__ import annotations

import math
import time

import structlog

from contract.slates import Degradation
from contract.tensors import bundle_id
from service.failures import DependencyUnavailable, EnsembleBusy, OtherBundle
from service.limits.circuits import Circuit
from service.limits.concurrency import AdaptiveLimit
from service.limits.deadline import Deadline
from service.limits.event_loop import Room
from service.limits.quality import Quality
from service.settings import Settings
from service.slates.ladder import Asked
from service.triton.client import TRITON, Recommender
from service.triton.tensors import Slate, seed_of

log = structlog.get_logger()

TARGET = 0.85
"""Share of the ensemble's time that the 95th percentile may take: what is left above it absorbs a burst."""
LEAST_IN_FLIGHT = 4
TOLD_S = 10.0
"""Seconds for which a bundle that is not ours is not logged again."""


class EnsembleStep:
    """Asks the ensemble, unless as many wait already as it can answer, or it keeps failing.

    What it takes decides how many may wait, and once that is few, how much of the candidates is considered.
    """

    name = "ensemble"

    def __init__(self, recommender: Recommender, settings: Settings, room: Room, bundle: str) -> None:
        self._recommender, self._room = recommender, room
        self._bundle, self._bundle_id, self._told_s = bundle, bundle_id(bundle), -math.inf
        self._reserve_s = settings.reserve_ms / 1000
        self._time_s = (settings.latency_budget_ms - settings.reserve_ms) / 1000
        self.circuit = Circuit(TRITON)
        self.limit = AdaptiveLimit(TARGET * self._time_s, LEAST_IN_FLIGHT, settings.triton.max_in_flight)
        self.quality = Quality(self._time_s)

    async def slate(self, asked: Asked) -> Slate:
        """Makes the ensemble's slate.

        Raises:
            EnsembleBusy: as many wait for it as may; at once.
            OtherBundle: the slate is of another bundle than the one served here.
            DependencyUnavailable: it does not answer, or not in time.
            StageError: as the ensemble raised it.
        """
        if not self.limit.try_enter():
            raise EnsembleBusy(self.limit.in_flight)
        deadline = asked.deadline.earlier(self._reserve_s)
        time_s, started = deadline.left_s(), time.monotonic()
        try:
            with self.circuit.guard():
                slate = await self._asked_in_time(asked, deadline)
        except DependencyUnavailable as error:
            if error.is_late and time_s > 0.9 * self._time_s:  # less was the caller's choice
                self._took(time_s)
            raise
        finally:
            self.limit.leave()
        self._took(time.monotonic() - started)
        if slate.bundle_id != self._bundle_id:
            raise self._other_bundle()
        if any(chance < 1 for chance in slate.propensities):
            # What learning from an explored slate must divide by: the chances of its places.
            asked.notes["item_ids"] = slate.item_ids
            asked.notes["propensities"] = [round(chance, 6) for chance in slate.propensities]
        return slate

    def _other_bundle(self) -> OtherBundle:
        error, now_s = OtherBundle(self._bundle), time.monotonic()
        if now_s - self._told_s >= TOLD_S:
            self._told_s = now_s
            log.warning("other_bundle", bundle=self._bundle, reason=error.reason)
        return error

    async def _asked_in_time(self, asked: Asked, deadline: Deadline) -> Slate:
        try:
            slate = await self._recommender.recommend(
                asked.request, deadline, seed_of(asked.request_id), self.quality.value
            )
        except DependencyUnavailable as error:
            error.is_late |= deadline.left_s() <= 0  # the ensemble's own word for it is a failed stage
            raise
        if Degradation.LATE in slate.degraded:
            raise DependencyUnavailable(TRITON, "the deadline passed on the way", is_late=True)
        return slate

    def _took(self, latency_s: float) -> None:
        # Callers also wait for the loop to take up their request, and to write its answer. That is no fault
        # of the ensemble: fewer in flight help, fewer candidates hardly.
        self.limit.took(latency_s + 2 * self._room.lateness_s)
        self.quality.took(latency_s, self.limit.is_lowest)
