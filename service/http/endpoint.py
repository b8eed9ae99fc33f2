"""The one route that has to be quick, served ahead of the framework that describes it.

FastAPI's own way from the body to the function and back takes as long as all that the function does.
"""

from __future__ import annotations

import asyncio

from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.http.body import replayed
from service.http.problems import request_id_of_scope
from service.http.requests import RECOMMENDATIONS
from service.schemas import RecommendRequest
from service.slates.answer import Answer, Answers

WATCH_AFTER_S = 0.02
"""So long after its start a request's caller is watched for leaving. Most are answered by then."""


class RecommendEndpoint:
    """Wraps the app: answers valid requests itself, and lets the app say what is wrong with others."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self.app, self.answers = app, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a recommendation request; all else goes on to the app."""
        if scope["type"] != "http" or scope["path"] != RECOMMENDATIONS or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        body = (await receive()).get("body", b"")  # whole: the layer before this one has read it
        try:
            asked = RecommendRequest.model_validate_json(body)
        except ValidationError:
            await self.app(scope, replayed(body, receive), send)
            return
        caller = _Caller(receive)
        try:
            for message in messages(await self.answers.answer(asked, request_id_of_scope(scope)), scope):
                await send(message)
        except asyncio.CancelledError:
            if not caller.has_left:
                raise
        except Exception as error:
            handle = scope["app"].exception_handlers.get(type(error))
            if handle is None:
                raise
            await (await handle(Request(scope), error))(scope, receive, send)
        finally:
            caller.forget()


class _Caller:
    """Cancels the task that answers when the caller hangs up; only one who waits for long is watched."""

    def __init__(self, receive: Receive) -> None:
        self.has_left = False
        self._receive = receive
        self._answering = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def forget(self) -> None:
        """Stops watching."""
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _start(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._answering is not None:
            self.has_left = True
            self._answering.cancel()


def note(scope: Scope, answer: Answer) -> None:
    """Leaves what the log line and the metrics say of the answer where the outermost layer finds it."""
    scope["state"]["source"] = answer.source
    bind_contextvars(**answer.notes)


def messages(answer: Answer, scope: Scope) -> list[Message]:
    """The answer as the server sends it."""
    note(scope, answer)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        (b"server-timing", answer.server_timing.encode()),
    ]
    return [
        {"type": "http.response.start", "status": 200, "headers": headers},
        {"type": "http.response.body", "body": answer.body},
    ]
