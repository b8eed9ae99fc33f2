"""How a document of many entries is taken: events, and items."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.http.body import read_document
from service.settings import Settings


class DocumentRoute(APIRoute):
    """A route that FastAPI describes by its function's signature, and that reads its request itself: longer
    bodies than others may be, and each entry judged by itself."""

    def __init__(self, path: str, endpoint: object, **options: object) -> None:
        super().__init__(path, endpoint, **options)  # type: ignore[arg-type]
        self.app = self._answer

    async def accept(self, document: Any, request: Request) -> BaseModel:
        """Takes the document, gives what the caller is told."""
        raise NotImplementedError

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings: Settings = scope["app"].state.router.settings
        most_bytes, timeout_ms = settings.events.max_body_bytes, settings.receive_timeout_ms
        document = await read_document(scope, receive, most_bytes, timeout_ms)
        if document is None:
            return  # the caller left before it was whole
        answer = await self.accept(document, Request(scope))
        response = Response(answer.model_dump_json(), int(HTTPStatus.ACCEPTED), media_type="application/json")
        await response(scope, receive, send)
