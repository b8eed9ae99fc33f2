"""The API: /v1."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from service.bundle import Manifest
from service.http.endpoint import note
from service.http.problems import request_id_of
from service.limits.deadline import Deadline
from service.schemas import INT64_MAX, Problem, RecommendRequest, RecommendResponse, SeenQuery, SeenResponse
from service.slates.answer import DISPLAY, Answers

router = APIRouter(prefix="/v1", tags=["recommendations"])


async def _answers(request: Request) -> Answers:
    answers: Answers = request.app.state.answers
    return answers


AnswersDep = Annotated[Answers, Depends(_answers)]
UserId = Annotated[int, Path(ge=0, le=INT64_MAX, description="The user.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents these statuses as problem documents."""
    return {status: {"model": Problem} for status in statuses}


@router.post(
    "/recommendations",
    response_model=RecommendResponse,
    responses=problems(400, 401, 408, 413, 415, 422, 500, 503),
)
async def recommend(body: RecommendRequest, request: Request, answers: AnswersDep) -> Response:
    """The best `n` items for this user now.

    A late, busy or unreachable ensemble is answered with the slate that a batch run stored for the user,
    `source: "batch"` and its age beside it, else from the popular list, `source: "popular"`. 503 with
    `retry-after` in seconds is told only beyond the number of requests that can be answered at all.
    """
    answer = await answers.answer(body, request_id_of(request))
    note(request.scope, answer)
    return Response(
        answer.body, media_type="application/json", headers={"server-timing": answer.server_timing}
    )


@router.get("/users/{user_id}/seen", responses=problems(401, 422, 503))
async def seen(
    user_id: UserId,
    answers: AnswersDep,
    query: Annotated[SeenQuery, Query()],
) -> SeenResponse:
    """What this user has seen, newest first. An unknown user has seen nothing."""
    deadline = Deadline.after(answers.settings.latency_budget_ms / 1000)
    item_ids = await answers.store.seen(user_id, deadline.left_s())
    shown = item_ids[: query.limit]
    cards, is_complete = await answers.cards(shown, deadline)
    return SeenResponse(
        user_id=user_id,
        total=len(item_ids),
        items=[{"item_id": item_id, **cards.get(item_id, {})} for item_id in shown],
        degraded=[] if is_complete else [DISPLAY],
    )


@router.get("/bundle", responses=problems(401, 503))
async def bundle(answers: AnswersDep) -> Manifest:
    """What is served: the bundle, its context names, filters and display fields."""
    return answers.bundle.manifest
