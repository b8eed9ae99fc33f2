"""The API: /v1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from contract.routing import CHAMPION
from service.http.body import read_request
from service.http.layers import MANY, RECOMMENDATIONS, SIMILAR, OverloadLayer
from service.http.problems import request_id_of
from service.limits.deadline import Deadline
from service.routing import Router
from service.schemas import (
    BundleArm,
    BundleFacts,
    BundleResponse,
    FreshnessResponse,
    ManyRequest,
    ManyResponse,
    Problem,
    RecommendRequest,
    RecommendResponse,
    SeenQuery,
    SeenResponse,
    SimilarRequest,
    SimilarResponse,
    SlateWish,
)
from service.slates.answer import AT_ONCE, DISPLAY, Recommendations, RenderedAnswer

router = APIRouter(prefix="/v1", tags=["recommendations"])

WATCH_AFTER_S = 0.02
"""So long after its start a request's caller is watched for leaving. Most are answered by then."""


async def _router(request: Request) -> Router:
    found: Router = request.app.state.router
    return found


async def _recommendations(request: Request) -> Recommendations:
    return (await _router(request)).served.champion


RouterDep = Annotated[Router, Depends(_router)]
RecommendationsDep = Annotated[Recommendations, Depends(_recommendations)]
"""The champion's."""
UserId = Annotated[str, Path(description="The user.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents these statuses as problem documents."""
    return {status: {"model": Problem} for status in statuses}


class RawRoute(APIRoute):
    """A route that FastAPI describes by its function's signature, and that reads its request itself.

    FastAPI's way from the body to the function and back takes as long as all that the function does.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = self._answer
        self._kind: type[SlateWish] | type[ManyRequest] = get_type_hints(endpoint)["body"]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body, calls the function, and ends with a caller who leaves; errors are the app's."""
        router: Router = scope["app"].state.router
        settings, ids = router.settings, router.variant.ids
        body = await read_request(scope, receive, settings, ids, self._kind)
        if body is None:
            return  # the caller left before it was whole
        watch = CallerWatch(receive)
        try:
            answer: RenderedAnswer = await self.endpoint(body, Request(scope), router)
            if (held_s := answer.due_s - time.monotonic()) > 0:
                watch.end()
                overload: OverloadLayer = scope["state"]["overload"]
                with overload.counted(-1):  # who is held costs the process nothing
                    await asyncio.sleep(held_s)
            await _send(answer, send)
            router.shown.note(answer.shown)
        except asyncio.CancelledError:
            if not watch.has_left:
                raise
        finally:
            watch.end()


async def _send(answer: RenderedAnswer, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        (b"server-timing", answer.server_timing.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class CallerWatch:
    """Cancels the task that answers when the caller hangs up; only one who waits for long is watched."""

    def __init__(self, receive: Receive) -> None:
        self.has_left = False
        self._receive = receive
        self._answering = asyncio.current_task()
        self._watching: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def end(self) -> None:
        """Stops watching."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _start(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._answering is not None:
            self.has_left = True
            self._answering.cancel()


async def recommend(body: RecommendRequest, request: Request, router: RouterDep) -> RenderedAnswer:
    """The best `n` items for this user now.

    A late, busy or unreachable ensemble is answered with the slate that a batch run stored for the user,
    `source: "batch"` and its age beside it, else from the popular list, `source: "popular"`. 503 with
    `retry-after` in seconds is told only beyond the number of requests that can be answered at all.
    """
    return await _answered(body, request, router)


async def similar(body: SimilarRequest, request: Request, router: RouterDep) -> RenderedAnswer:
    """The `n` items most like another one, for everyone or for a user.

    Alike are items whose vectors point the same way, as the retrieval model learned them: that other users
    choose them together, and that their features agree. Within the same budget and limits as recommendations;
    a late, busy or unreachable ensemble is answered from the popular list, `source: "popular"`.
    """
    return await _answered(body, request, router)


async def _answered(
    body: RecommendRequest | SimilarRequest, request: Request, router: Router
) -> RenderedAnswer:
    answer = await router.answer(body, request_id_of(request))
    request.scope["state"]["sources"] = answer.sources
    bind_contextvars(**answer.log_fields)
    return answer


async def recommend_many(body: ManyRequest, request: Request, router: RouterDep) -> RenderedAnswer:
    """The best items for each of several users, in their order.

    Every one is answered as by `/v1/recommendations`, within one budget for all: each has its own `source`
    and `degraded`. A wrong field of one, named with its place, refuses all.
    """
    overload: OverloadLayer = request.scope["state"]["overload"]
    with overload.counted(min(len(body.requests), AT_ONCE) - 1):
        answer = await router.answers(body.requests, request_id_of(request))
    request.scope["state"]["sources"] = answer.sources
    bind_contextvars(**answer.log_fields)
    return answer


def add_slate_routes(app: FastAPI) -> None:
    """Adds the routes that have to be quick, to the app itself: an included router takes longer."""
    for path, endpoint, model in (
        (RECOMMENDATIONS, recommend, RecommendResponse),
        (MANY, recommend_many, ManyResponse),
        (SIMILAR, similar, SimilarResponse),
    ):
        app.router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            tags=["recommendations"],
            response_model=model,
            responses=problems(400, 401, 408, 413, 415, 422, 500, 503),
            route_class_override=RawRoute,
        )


@router.get("/users/{user_id:path}/seen", responses=problems(401, 422, 503))
async def seen(
    user_id: UserId,
    recommendations: RecommendationsDep,
    query: Annotated[SeenQuery, Query()],
) -> SeenResponse:
    """What this user has seen, newest first. An unknown user has seen nothing."""
    deadline = Deadline.after(recommendations.settings.latency_budget_ms / 1000)
    variant = recommendations.variant
    user, own = variant.ids.user_of_path(user_id)
    item_ids = await variant.store.seen(user, deadline.left_s())
    shown = list(islice(variant.ids.named(item_ids), query.limit))
    cards, is_complete = await recommendations.cards([item_id for item_id, _ in shown], deadline)
    return SeenResponse(
        user_id=own,
        total=len(item_ids),
        items=[{"item_id": own_id, **cards.get(item_id, {})} for item_id, own_id in shown],
        degraded=[] if is_complete else [DISPLAY],
    )


@router.get("/bundle", responses=problems(401, 503))
async def bundle(router: RouterDep) -> BundleResponse:
    """What is served: the champion's bundle, its context names, filters and display fields, and the arms."""
    served = router.served
    variant = served.champion.variant
    facts = BundleFacts.model_validate(variant.manifest)
    features = variant.ids.written_dtypes(facts.user_features)
    arms = [
        BundleArm(arm=arm.bundle, bundle=arm.bundle, share=arm.share)
        for arm in served.routing.arms
        if arm.bundle in served.arms
    ]
    rest = BundleArm(arm=CHAMPION, bundle=facts.bundle, share=1 - sum(arm.share for arm in arms))
    return BundleResponse(
        **(facts.model_dump() | {"user_features": features}),
        arms=[rest, *arms],
        shadow=served.shadow and served.shadow.name,
    )


@router.get("/freshness", responses=problems(401, 503))
async def freshness(recommendations: RecommendationsDep) -> FreshnessResponse:
    """How old features, bundle, slates and index are, how long events wait, and whether what is served drifts
    from what its bundle was made of: as the watch found it in the last minute."""
    budget_s = recommendations.settings.latency_budget_ms / 1000
    found = await recommendations.variant.store.watched(budget_s)
    return FreshnessResponse(found=found, lines=found.lines() if found else ["nobody watches"])
