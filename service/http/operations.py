"""Whether the gateway is alive, whether it is ready, and its metrics."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable
from contextlib import suppress

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from contract.errors import StageError
from contract.slates import SlateSource
from service.failures import DependencyUnavailable
from service.http.routes import RecommendationsDep
from service.limits.deadline import Clock, Deadline
from service.schemas import Dependency, Health, Readiness, RecommendRequest
from service.slates.answer import Recommendations
from service.variant import Variant

log = structlog.get_logger()

KEPT_S = 1.0
"""Seconds for which a result is given again. One check makes a real slate, and anyone may ask for it: more
often would be load for the ensemble."""
PAUSE_S = 0.25
"""After a warm-up request that the ensemble did not answer, until the next."""
TOGETHER = 8
"""The last warm-up requests come so many at once, so that calls of several rows are warm too."""

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
async def metrics(recommendations: RecommendationsDep) -> Response:
    """Counts and times, in Prometheus' text format."""
    with suppress(DependencyUnavailable):  # then the age of what was published when that was last read
        time_s, store = recommendations.variant.store_timeout_s, recommendations.variant.store
        await recommendations.batch.look(time_s)
        recommendations.metrics.features_are_of(await store.materialized_at(time_s))
    return Response(recommendations.metrics.text(), media_type=CONTENT_TYPE_LATEST)


class DependencyChecks:
    """Whether Triton and Redis work, as of at most `KEPT_S` seconds ago.

    Who asks while a check is made waits for its result.
    """

    def __init__(self, variant: Variant, timeout_s: float, clock: Clock = time.monotonic) -> None:
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
        triton, redis = await asyncio.gather(
            _checked(self._variant.ensemble.check(Deadline.after(self._timeout_s))),
            _checked(self._variant.store.check(self._timeout_s)),
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


class WarmUp:
    """Ready means warm: asks for slates until the ensemble has answered often enough through this process.

    It is done once per process. A Triton that restarts later warms itself before it answers, and what it
    shares with this process, a connection, is made again by the first request.
    """

    def __init__(self, recommendations: Recommendations, wanted: int) -> None:
        """Takes recommendations whose counts nobody reads: no caller asked these requests."""
        self._recommendations, self._wanted = recommendations, wanted
        self._user_ids = recommendations.variant.manifest.sample_users or (0,)
        self.answered = 0

    @property
    def is_done(self) -> bool:
        """Whether this process is warm."""
        return self.answered >= self._wanted

    @property
    def detail(self) -> str:
        """How far it is."""
        return f"{self.answered} of {self._wanted} requests answered by the ensemble"

    async def run(self) -> None:
        """Asks until the process is warm, however long the ensemble takes to come."""
        numbers = itertools.count()
        while not self.is_done:
            left = self._wanted - self.answered
            at_once = min(TOGETHER, left) if left <= 2 * TOGETHER else 1
            sources = await asyncio.gather(*(self._ask(next(numbers)) for _ in range(at_once)))
            self.answered += sources.count(SlateSource.ENSEMBLE)
            if SlateSource.ENSEMBLE not in sources:
                await asyncio.sleep(PAUSE_S)
        log.info("warm", detail=self.detail)

    async def _ask(self, number: int) -> str:
        """Asks for one slate, gives its source; empty where the ensemble refuses."""
        request = RecommendRequest(user_id=self._user_ids[number % len(self._user_ids)])
        try:
            (source,) = (await self._recommendations.answer(request, f"warm-up-{number}")).sources
            return source
        except StageError as error:
            log.warning("warm_up_refused", reason=str(error))
            return ""
