"""Who asks: every request under /v1 shows a key that the settings know, where they know any."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.api_keys import ApiKey, caller_of
from service.http.problems import problem, request_id_of_scope
from service.metrics import Metrics

GUARDED = "/v1/"
"""Health, metrics, pages and the API's description tell nothing of a user: anyone may see them."""
CALLER = "caller"
"""Where the caller's name stands in a request's state, and its key in the log line."""
_SCHEME = b"bearer "
_CHALLENGE = 'Bearer realm="shortlist"'


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
            self.metrics.called(caller)
            await self.app(scope, receive, send)
            return
        self.metrics.refused("unknown_key" if shown else "no_key")
        detail = "A known API key is needed: send it as `authorization: Bearer KEY`"
        response = problem(401, detail, request_id=request_id_of_scope(scope))
        response.headers["www-authenticate"] = _CHALLENGE + (', error="invalid_token"' if shown else "")
        await response(scope, receive, send)


def _key(shown: Sequence[bytes]) -> bytes:
    """The key in an authorization header; empty where there is none, or more than one."""
    if len(shown) != 1 or shown[0][: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return shown[0][len(_SCHEME) :].strip()
