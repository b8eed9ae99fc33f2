"""Ready means warm: this process has answered real requests itself before it says that it is ready."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import orjson
import structlog
from starlette.types import ASGIApp, Message

from contract.slates import SlateSource
from service.http.requests import RECOMMENDATIONS, REQUEST_ID

log = structlog.get_logger()

PAUSE_S = 0.25
"""After an answer that did not come from the ensemble, until the next try."""
TOGETHER = 8
"""The last requests come so many at once, so that calls of several rows are warm too."""


class WarmUp:
    """Asks an app, through all of its layers, until the ensemble has answered often enough.

    It is done once per process. A Triton that restarts later warms itself before it answers, and what it
    shares with this process, a connection, is made again by the first request.
    """

    def __init__(self, app: ASGIApp, user_ids: Sequence[int], wanted: int) -> None:
        self._app, self._user_ids, self._wanted = app, tuple(user_ids) or (0,), wanted
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
        """Sends one request, gives the source of its answer; empty for an error."""
        body = orjson.dumps({"user_id": self._user_ids[number % len(self._user_ids)]})
        sent: list[Message] = []
        told = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Message:
            return next(told, None) or await asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(_scope(len(body), number), receive, send)
        if not sent or sent[0]["status"] != 200:
            return ""
        return str(orjson.loads(b"".join(message.get("body", b"") for message in sent))["source"])


def _scope(length: int, number: int) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": RECOMMENDATIONS,
        "raw_path": RECOMMENDATIONS.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % length),
            (REQUEST_ID, b"warm-up-%d" % number),
        ],
        "client": None,
        "server": None,
        "state": {},
    }
