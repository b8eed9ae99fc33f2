"""The outermost layer of every request:

its id, its log line, its count, and the last resort against our own bugs.
"""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from service.http.problems import problem
from service.metrics import Metrics

log = structlog.get_logger()

REQUEST_ID = b"x-request-id"
RECOMMENDATIONS = "/v1/recommendations"
CALLER_LEFT = 499
"""Counted and logged, never sent: the caller hung up before an answer began."""
PATH_LENGTH = 200
"""Characters of a path that are logged."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class RequestLayer:
    """Wraps the app. The routes may put `source` into the request's state; it is counted and logged here."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request; other kinds of connections pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        clear_contextvars()
        bind_contextvars(request_id=request_id)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("bug")
            if status == 0:
                detail = "The gateway failed; this is our fault. Report the request id."
                await problem(500, detail, request_id=request_id)(scope, receive, send_with_id)
            status = 500
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path, status = scope["path"], status or CALLER_LEFT
        # A request that a layer above the routes refused has no route, and is still one of these.
        unrouted = RECOMMENDATIONS if path == RECOMMENDATIONS else "other"
        route = getattr(scope.get("route"), "path", unrouted)
        self.metrics.responded(route, seconds)
        if route == RECOMMENDATIONS:
            self.metrics.recommended(scope["state"].get("source", "none"), status)
        write = log.debug if route in _QUIET else log.info
        write(
            "request",
            method=scope["method"],
            path=path[:PATH_LENGTH],
            status=status,
            ms=round(seconds * 1000, 3),
        )


def _request_id(scope: Scope) -> str:
    """The caller's own id where it is harmless in a header and a log, else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex
