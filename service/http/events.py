"""The route by which callers tell what happened."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from service.events.intake import EventIntake
from service.events.schemas import EventsRequest, EventsResponse
from service.failures import TooFarBehind
from service.http.documents import DocumentRoute
from service.http.layers import OverloadLayer
from service.http.problems import problem, request_id_of
from service.http.routes import problems

EVENTS = "/v1/events"
RETRY_AFTER_S = 5
"""Where the consumer is far behind: it needs a while."""


class EventsRoute(DocumentRoute):
    """Takes events."""

    async def accept(self, document: Any, request: Request) -> EventsResponse:
        """Takes what users did."""
        intake: EventIntake = request.app.state.events
        overload: OverloadLayer = request.scope["state"]["overload"]
        # Who waits for Redis' disk costs the process nothing.
        with overload.counted(-1):
            answer = await intake.accept(document, request_id_of(request))
        bind_contextvars(
            accepted=answer.accepted,
            duplicates=answer.duplicates,
            wrong=answer.refused,
        )
        return answer


async def accept_events(body: EventsRequest) -> EventsResponse:  # type: ignore[empty-body]
    """Takes what users did: 1 to 500 events.

    202 once they lie in a stream of Redis with an append-only file, from which none is lost; each has its
    effect once, on what the user has seen, on features and on the next training, within a second or so. Send
    the same again where no answer came: what was accepted is a duplicate. A wrong event is told by its place
    and field, and keeps no other from being accepted, unless the request is `atomic`; where none is right,
    the status is 422. 503 where Redis does not answer or is full, 429 where too many events wait.
    """


def add_event_route(app: FastAPI) -> None:
    """Adds the route to the app itself."""
    app.router.add_api_route(
        EVENTS,
        accept_events,
        methods=["POST"],
        status_code=HTTPStatus.ACCEPTED,
        tags=["events"],
        response_model=EventsResponse,
        responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503),
        route_class_override=EventsRoute,
    )
    app.add_exception_handler(TooFarBehind, _on_too_far_behind)


async def _on_too_far_behind(request: Request, error: Exception) -> Response:
    detail = f"{error}: try again in {RETRY_AFTER_S} s"
    response = problem(HTTPStatus.TOO_MANY_REQUESTS, detail, request_id=request_id_of(request))
    response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response
