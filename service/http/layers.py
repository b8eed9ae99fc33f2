"""The layers around every request, outermost first: its id, its log line and its count; the bound of requests
in the process; its key."""

from __future__ import annotations

import asyncio
import math
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from service.api_keys import ApiKey, caller_of
from service.http.problems import problem, request_id_of_scope
from service.limits.event_loop import EventLoopLimit
from service.limits.shaper import Shaper
from service.metrics import Metrics

log = structlog.get_logger()

RECOMMENDATIONS = "/v1/recommendations"
MANY = f"{RECOMMENDATIONS}/many"
SIMILAR = "/v1/similar"
SLATES = frozenset({RECOMMENDATIONS, MANY, SIMILAR})
"""The routes that answer with slates."""
GUARDED = "/v1/"
"""Health, metrics, pages and the API's description tell nothing of a user: anyone may see them, always."""
REQUEST_ID = b"x-request-id"
CALLER_LEFT = 499
"""Counted and logged, never sent: the caller hung up before an answer began."""
PATH_LENGTH = 200
"""Characters of a path that are logged."""
RETRY_AFTER_S = 1
"""Whole seconds are the header's unit; the gateway itself is normal again sooner."""
HELD_S = 0.05
"""Seconds for which a refusal is held at most, where there are many: some ask again at once."""
CALLER = "caller"
"""The caller's name in the log line."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_SCHEME = b"bearer "
_CHALLENGE = 'Bearer realm="shortlist"'


class RequestLayer:
    """Wraps the app. The routes may put `sources` into the request's state; they are counted here."""

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
        unrouted: str = path if path in SLATES else "other"
        route: str = getattr(scope.get("route"), "path", unrouted)
        self.metrics.answers.responded(seconds, route)
        if route in SLATES:
            for source in scope["state"].get("sources", ("none",)):
                self.metrics.answers.recommended(source, status)
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


class OverloadLayer:
    """Wraps the app: answers 503 before a request is read, many of them spaced; health is always answered."""

    def __init__(self, app: ASGIApp, limit: EventLoopLimit, metrics: Metrics) -> None:
        self.app, self.limit, self.metrics = app, limit, metrics
        self.in_process = 0
        self.shaper = Shaper()
        metrics.load.watch_event_loop(limit, lambda: self.in_process)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through unless there are too many."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        state = scope["app"].state
        has_many = len(getattr(state, "connections", ())) > getattr(state, "max_connections", math.inf)
        if has_many or self.in_process >= self.limit.value:
            self.metrics.answers.refused("overload")
            many = "connections are open" if has_many else "requests are being answered"
            detail = f"too many {many} already: try again in {RETRY_AFTER_S} s"
            response = problem(503, detail, request_id=request_id_of_scope(scope))
            response.headers["retry-after"] = str(RETRY_AFTER_S)
            if has_many:
                response.headers["connection"] = "close"
            else:
                await asyncio.sleep(self.shaper.held_s(time.monotonic() + HELD_S))
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["overload"] = self
        with self.counted(1):
            await self.app(scope, receive, send)

    @contextmanager
    def counted(self, requests: int) -> Iterator[None]:
        """Counts so many requests as being answered, for as long as the block takes."""
        self.in_process += requests
        try:
            yield
        finally:
            self.in_process -= requests


class AccessLayer:
    """Wraps the app: answers 401 before anything of the request is read."""

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey], metrics: Metrics) -> None:
        self.app, self.keys, self.metrics = app, tuple(keys), metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through whose key is known."""
        if not self.keys or scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        key = _key(shown)
        caller = caller_of(key, self.keys) if key else None
        if caller is not None:
            bind_contextvars(**{CALLER: caller})
            self.metrics.answers.called(caller)
            await self.app(scope, receive, send)
            return
        self.metrics.answers.refused("unknown_key" if shown else "no_key")
        detail = "A known API key is needed: send it as `authorization: Bearer KEY`"
        response = problem(401, detail, request_id=request_id_of_scope(scope))
        response.headers["www-authenticate"] = _CHALLENGE + (', error="invalid_token"' if shown else "")
        await response(scope, receive, send)


def _key(shown: Sequence[bytes]) -> bytes:
    """The key in an authorization header; empty where there is none, or more than one."""
    if len(shown) != 1 or shown[0][: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return shown[0][len(_SCHEME) :].strip()
