"""Whether the gateway is alive, whether it is ready, and its metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from contract.errors import StageError
from service.failures import DependencyUnavailable
from service.http.routes import RecommendationsDep
from service.limits.deadline import Clock, Deadline
from service.schemas import Dependency, Health, Readiness
from service.slates.warm_up import WarmUp
from service.variant import Variant

log = structlog.get_logger()

KEPT_S = 1.0
"""Seconds for which a result is given again. One check makes a real slate, and anyone may ask for it: more
often would be load for the ensemble."""
LAG_S = 0.5
"""Most seconds that /metrics waits for Redis to say how far the consumer of events is."""

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process is alive and answers, if need be from the popular list: route traffic by this."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(recommendations: RecommendationsDep, request: Request, response: Response) -> Readiness:
    """Every dependency by name; 503 unless each one works and this process has answered real requests.

    Wait for this after a start, and alert on it. A gateway that is not ready still answers, marked as
    degraded. The servers are checked at most once a second: who asks more often is told the same again.
    """
    checks: DependencyChecks = request.app.state.checks
    servers = await checks.results()
    manifest = recommendations.variant.manifest
    bundle = Dependency(is_ready=True, detail=f"{manifest.bundle}, {manifest.items} items", check_ms=0)
    warm_up: WarmUp = request.app.state.warm_up
    warm = Dependency(is_ready=warm_up.is_done, detail=warm_up.detail, check_ms=0)
    dependencies = {**servers, "bundle": bundle, "warm_up": warm}
    is_ready = all(dependency.is_ready for dependency in dependencies.values())
    response.status_code = 200 if is_ready else 503
    return Readiness(is_ready=is_ready, dependencies=dependencies)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(recommendations: RecommendationsDep, request: Request) -> Response:
    """Counts and times, in Prometheus' text format."""
    with suppress(DependencyUnavailable):  # then the age of what was published when that was last read
        time_s, store = recommendations.variant.store_timeout_s, recommendations.variant.store
        await recommendations.batch.look(time_s)
        recommendations.metrics.served.features_are_of(await store.materialized_at(time_s))
    with suppress(DependencyUnavailable):
        lag = await request.app.state.events.log.lag(LAG_S)
        recommendations.metrics.events.waiting(lag.events, lag.seconds, lag.backlog)
    return Response(recommendations.metrics.text(), media_type=CONTENT_TYPE_LATEST)


class DependencyChecks:
    """Whether Triton and Redis work, as of at most `KEPT_S` seconds ago.

    Who asks while a check is made waits for its result.
    """

    def __init__(
        self, variant: Callable[[], Variant], timeout_s: float, clock: Clock = time.monotonic
    ) -> None:
        """Takes what gives the champion."""
        self._variant, self._timeout_s = variant, timeout_s
        self._clock, self._ended_s = clock, 0.0
        self._check: asyncio.Task[dict[str, Dependency]] | None = None

    async def results(self) -> dict[str, Dependency]:
        """Gives each server's result by name."""
        check = self._check
        if check is None or (check.done() and self._clock() - self._ended_s >= KEPT_S):
            check = self._check = asyncio.create_task(self._made())
        return await asyncio.shield(check)  # a caller who leaves does not end it for the others

    async def _made(self) -> dict[str, Dependency]:
        variant = self._variant()
        triton, redis = await asyncio.gather(
            _checked(variant.ensemble.check(Deadline.after(self._timeout_s))),
            _checked(variant.store.check(self._timeout_s)),
        )
        self._ended_s = self._clock()
        return {"triton": triton, "redis": redis}


async def _checked(check: Awaitable[str]) -> Dependency:
    started = time.monotonic()
    try:
        is_ready, detail = True, await check
    except DependencyUnavailable as error:
        is_ready, detail = False, error.reason
    except StageError as error:
        is_ready, detail = False, f"{error.stage}: {error.message}"
    except Exception:
        log.exception("bug")
        is_ready, detail = False, "the check itself failed; the log says how"
    return Dependency(
        is_ready=is_ready, detail=detail, check_ms=round((time.monotonic() - started) * 1000, 3)
    )
