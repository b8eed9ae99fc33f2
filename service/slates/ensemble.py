"""The first step of the ladder: the ensemble, asked for no more than it answers in time."""

from __future__ import annotations

import math
import time

import structlog

from contract.slates import Degradation
from service.failures import DependencyUnavailable, EnsembleBusy, OtherBundle
from service.limits.event_loop import EventLoopLimit
from service.slate import Slate
from service.slates.ladder import SlateRequest
from service.triton.client import TRITON
from service.triton.tensors import seed_of
from service.variant import Variant

log = structlog.get_logger()

LOGGED_S = 10.0
"""Seconds for which a bundle that is not ours is not logged again."""


class EnsembleStep:
    """Asks the ensemble, unless as many wait already as it can answer, or it keeps failing.

    What it takes decides how many may wait, and once that is few, how much of the candidates is considered.
    """

    name = "ensemble"

    def __init__(self, variant: Variant, reserve_s: float, event_loop: EventLoopLimit) -> None:
        self._variant, self._reserve_s, self._event_loop = variant, reserve_s, event_loop
        self._logged_s = -math.inf

    async def slate(self, query: SlateRequest) -> Slate:
        """Makes the ensemble's slate.

        Raises:
            EnsembleBusy: as many wait for it as may; at once.
            OtherBundle: the slate is of another bundle than the one served here.
            DependencyUnavailable: it does not answer, or not in time.
            StageError: as the ensemble raised it.
        """
        variant, limits = self._variant, self._variant.limits
        if not limits.in_flight.try_enter():
            raise EnsembleBusy(limits.in_flight.in_flight)
        deadline = query.deadline.earlier(self._reserve_s)
        time_s, started = deadline.left_s(), time.monotonic()
        is_patient = time_s > 0.9 * limits.time_s  # less was the caller's choice
        try:
            with limits.circuit.guard(is_patient=is_patient):
                try:
                    slate = await variant.ensemble.recommend(
                        query.request, deadline, seed_of(query.request_id), limits.quality.value
                    )
                except DependencyUnavailable as error:
                    error.is_late |= (
                        deadline.left_s() <= 0
                    )  # the ensemble's own word for it is a failed stage
                    raise
                if Degradation.LATE in slate.degraded:
                    raise DependencyUnavailable(TRITON, "the deadline passed on the way", is_late=True)
        except DependencyUnavailable as error:
            if error.is_late and is_patient:
                limits.took(time_s, self._event_loop.lateness_s)
            raise
        finally:
            limits.in_flight.leave()
        limits.took(time.monotonic() - started, self._event_loop.lateness_s)
        if slate.bundle_id != variant.bundle_id:
            raise self._other_bundle()
        if any(chance < 1 for chance in slate.propensities):
            # What learning from an explored slate must divide by: the chances of its places.
            query.log_fields["item_ids"] = [variant.ids.item(item_id) for item_id in slate.item_ids]
            query.log_fields["propensities"] = [round(chance, 6) for chance in slate.propensities]
        return slate

    def _other_bundle(self) -> OtherBundle:
        error, now_s = OtherBundle(self._variant.name), time.monotonic()
        if now_s - self._logged_s >= LOGGED_S:
            self._logged_s = now_s
            log.warning("other_bundle", bundle=self._variant.name, reason=error.reason)
        return error
