"""Asks a bundle that nobody is shown beside the one that answers, and compares the two: with capacity to
spare alone, after the answer, and never in its way."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from contract.errors import StageError
from contract.slates import SlateSource
from contract.tensors import FULL_QUALITY
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.limits.event_loop import EventLoopLimit
from service.metrics import Metrics
from service.slate import Slate
from service.slates.ladder import SlateRequest
from service.triton.tensors import seed_of
from service.variant import Variant

log = structlog.get_logger()

AFTER_S = 0.02
"""Seconds from a slate until the shadow is asked for its own: the answer is sent by then."""
SHARE = 0.05
"""Of the time, so much is the shadow's at most."""
LATE_S = 0.005
"""An event loop that comes later than this has nothing to spare."""
COMPARED = 10


@dataclass(frozen=True)
class Comparison:
    """The first `COMPARED` items of two slates: how many both hold, as a share, and how much higher the
    shadow's mean score is; NaN where one is empty."""

    overlap: float
    score_shift: float


def compare(champion: Slate, shadow: Slate) -> Comparison:
    """Compares what was shown with what would have been."""
    ours, theirs = champion.item_ids[:COMPARED], shadow.item_ids[:COMPARED]
    if not ours or not theirs:
        return Comparison(0.0, math.nan)
    shared = len({*ours} & {*theirs}) / max(len(ours), len(theirs))
    means = [sum(one.scores[:COMPARED]) / len(one.scores[:COMPARED]) for one in (champion, shadow)]
    return Comparison(shared, means[1] - means[0])


class Shadow:
    """One bundle beside the champion."""

    def __init__(
        self,
        variant: Variant,
        in_flight: Callable[[], int],
        event_loop: EventLoopLimit,
        metrics: Metrics,
        time_s: float,
    ) -> None:
        """Takes what tells how many slates others wait for, and the seconds that it has for its own."""
        self.name = variant.name
        self._variant, self._in_flight, self._time_s = variant, in_flight, time_s
        self._event_loop, self._metrics = event_loop, metrics
        self._not_before_s = -math.inf
        self._asking: asyncio.Task[None] | None = None

    def heard(self, query: SlateRequest, slate: Slate) -> None:
        """Takes a request and the champion's slate for it; asks for another where there is time to spare."""
        if slate.source is not SlateSource.ENSEMBLE or query.request.explain or self._asking is not None:
            return
        if time.monotonic() < self._not_before_s:
            return
        self._not_before_s = math.inf  # until this one is over
        asyncio.get_running_loop().call_later(AFTER_S, self._begin, query, slate)

    def _begin(self, query: SlateRequest, slate: Slate) -> None:
        if self._in_flight() or self._event_loop.lateness_s > LATE_S:
            self._metrics.shadow.requested("spared")
            self._not_before_s = time.monotonic() + AFTER_S
            return
        self._asking = asyncio.get_running_loop().create_task(self._ask(query, slate))

    async def _ask(self, query: SlateRequest, slate: Slate) -> None:
        started, outcome = time.monotonic(), "failed"
        try:
            deadline, seed = Deadline.after(self._time_s), seed_of(query.request_id)
            other = await self._variant.ensemble.recommend(query.request, deadline, seed, FULL_QUALITY)
            took_s, outcome = time.monotonic() - started, "compared"
            found = compare(slate, other)
            champion_s = query.timings_ms.get("ensemble", math.nan) / 1000
            self._metrics.shadow.compared(found.overlap, found.score_shift, took_s, champion_s)
        except (DependencyUnavailable, StageError) as error:
            log.info("shadow_failed", bundle=self.name, reason=str(error))
        except Exception:
            log.exception("bug")
        finally:
            self._metrics.shadow.requested(outcome)
            now_s = time.monotonic()
            self._not_before_s = now_s + (now_s - started) * (1 / SHARE - 1)
            self._asking = None
