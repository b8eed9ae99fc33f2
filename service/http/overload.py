"""The last bound: more requests at once than the process can even answer cheaply are told to come back."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.access import GUARDED
from service.http.problems import problem, request_id_of_scope
from service.limits.event_loop import Room
from service.metrics import Metrics

RETRY_AFTER_S = 1
"""Whole seconds are the header's unit; the gateway itself is normal again sooner."""


class OverloadLayer:
    """Wraps the app: answers 503 at once, before a request is read; health is always answered."""

    def __init__(self, app: ASGIApp, room: Room, metrics: Metrics) -> None:
        self.app, self.room, self.metrics = app, room, metrics
        self.in_process = 0
        metrics.watch_room(room, lambda: self.in_process)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through unless there are too many."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        if self.in_process >= (most := self.room.value):
            self.metrics.refused("overload")
            detail = f"{most} requests are being answered already: try again in {RETRY_AFTER_S} s"
            response = problem(503, detail, request_id=request_id_of_scope(scope))
            response.headers["retry-after"] = str(RETRY_AFTER_S)
            await response(scope, receive, send)
            return
        self.in_process += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_process -= 1
