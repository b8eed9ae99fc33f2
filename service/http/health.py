"""Whether the gateway is alive, whether it is ready, and its metrics."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.failures import DependencyUnavailable
from service.http.checks import Checks
from service.http.routes import AnswersDep
from service.http.warm import WarmUp
from service.schemas import Dependency, Health, Readiness

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process is alive and answers, if need be from the popular list: route traffic by this."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(answers: AnswersDep, request: Request, response: Response) -> Readiness:
    """Every dependency by name; 503 unless each one works and this process has answered real requests.

    Wait for this after a start, and alert on it. A gateway that is not ready still answers, marked as
    degraded. The servers are checked at most once a second: who asks more often is told the same again.
    """
    checks: Checks = request.app.state.checks
    servers = await checks.results()
    manifest = answers.bundle.manifest
    bundle = Dependency(is_ready=True, detail=f"{manifest.bundle}, {manifest.items} items", check_ms=0)
    warm_up: WarmUp = request.app.state.warm_up
    warm = Dependency(is_ready=warm_up.is_done, detail=warm_up.detail, check_ms=0)
    dependencies = {**servers, "bundle": bundle, "warm_up": warm}
    is_ready = all(dependency.is_ready for dependency in dependencies.values())
    response.status_code = 200 if is_ready else 503
    return Readiness(is_ready=is_ready, dependencies=dependencies)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(answers: AnswersDep) -> Response:
    """Counts and times, in Prometheus' text format."""
    with suppress(DependencyUnavailable):  # then the age of what was published when that was last read
        await answers.stored.look(answers.settings.store_timeout_ms / 1000)
    return Response(answers.metrics.text(), media_type=CONTENT_TYPE_LATEST)
