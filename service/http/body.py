"""The body of a request: read whole, within a bounded size and time, and JSON without surprises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem, request_id_of_scope
from service.metrics import Metrics

JSON = b"application/json"
DEPTH = 3
"""Of the deepest valid request: the object, its `filters`, a column's values."""


class BodyRefused(Exception):
    """A body that is not read further: status, a word for the metric, what is wrong and what to do."""

    def __init__(self, status: int, reason: str, detail: str, field: str = "body") -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.field = status, reason, detail, field


class BodyLayer:
    """Wraps the app: gives the routes on these paths a body that is JSON, all others none at all."""

    def __init__(
        self,
        app: ASGIApp,
        paths: Collection[str],
        max_bytes: int,
        timeout_ms: int,
        metrics: Metrics,
    ) -> None:
        self.app, self.paths, self.max_bytes, self.timeout_ms = app, frozenset(paths), max_bytes, timeout_ms
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body, then calls the app with it."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        try:
            check_head(scope, self.max_bytes)
            body = await self._read(receive)
            check_json(body)
        except BodyRefused as wrong:
            self.metrics.refused(wrong.reason)
            more = (
                {"errors": [{"field": wrong.field, "message": wrong.detail}]} if wrong.status == 422 else {}
            )
            detail = f"{wrong.field} {wrong.detail}" if more else wrong.detail
            response = problem(wrong.status, detail, request_id=request_id_of_scope(scope), **more)
            if wrong.status == 415:
                response.headers["accept"] = JSON.decode()
            await response(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None where the caller left."""
        parts: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(self.timeout_ms / 1000):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    length += len(part)
                    if length > self.max_bytes:
                        raise _too_long(self.max_bytes)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            detail = f"The body did not come within {self.timeout_ms} ms: send it at once"
            raise BodyRefused(408, "body_late", detail) from None


def check_head(scope: Scope, max_bytes: int) -> None:
    """Looks at what the headers say of the body, before any of it is read.

    Raises:
        BodyRefused: it is too long, compressed, not JSON, or accompanied by a query.
    """
    if scope["query_string"]:
        name = scope["query_string"].partition(b"&")[0].partition(b"=")[0].decode("latin-1")
        raise BodyRefused(422, "field", "is not a parameter of this route: put it into the body", name[:64])
    kind = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length" and int(value) > max_bytes:
            raise _too_long(max_bytes)
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            detail = "The body is compressed: send it as it is, without content-encoding"
            raise BodyRefused(415, "content_encoding", detail)
    if kind.partition(b";")[0].strip().lower() != JSON:
        detail = "The body must be JSON: send it with content-type: application/json"
        raise BodyRefused(415, "content_type", detail)


def check_json(body: bytes | None) -> None:
    """Looks for what JSON parsers disagree on: other encodings, names given twice, half characters.

    Raises:
        BodyRefused: the body has one of these, is nested too deep, or is not JSON.
    """
    if not body:
        return  # the route says what is missing
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique)
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise BodyRefused(400, "json", "The body is not UTF-8: send JSON in UTF-8") from None
    except UnicodeEncodeError:
        detail = "The body holds half a character (a lone surrogate): send whole ones"
        raise BodyRefused(400, "json", detail) from None
    except RecursionError:
        raise BodyRefused(400, "json", f"The body is nested too deep: send at most {DEPTH} levels") from None
    except json.JSONDecodeError as error:
        detail = f"body is not valid JSON near byte {error.pos}: send one JSON object"
        raise BodyRefused(400, "json", detail) from None
    except ValueError:  # an integer of thousands of digits
        detail = "The body holds a number that cannot be read: send one JSON object with int64 numbers"
        raise BodyRefused(400, "json", detail) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BodyRefused(422, "field", "is given twice: send it once", twice[:64])
    return found


def _too_long(max_bytes: int) -> BodyRefused:
    return BodyRefused(413, "body_too_long", f"The body is too long: send at most {max_bytes} bytes")


def replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body in one message, then whatever comes, such as the caller's leaving."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
