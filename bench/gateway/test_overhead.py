"""What the gateway itself adds to a request: everything but the ensemble, Redis and the network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import structlog

from contract.slates import Published
from contract.tensors import PAD_ID
from service.limits.deadline import Deadline
from service.schemas import RecommendRequest
from service.slate import Slate
from service.triton.tensors import RequestRow, decode_slate, encode_rows
from tests.builders.gateway import RUN, make_app, make_outputs, make_store, make_stored


class Prepared:
    """Answers at once with what the ensemble said before, so that only the gateway's work is timed."""

    def __init__(self, request: RecommendRequest) -> None:
        self.slate = decode_slate(make_outputs(n=request.n, k=100), request.n, request.explain)

    async def recommend(self, *_: Any) -> Slate:
        """Gives the same slate again."""
        return self.slate

    async def check(self, *_: Any) -> str:
        """Is always there."""
        return "prepared"


@pytest.mark.benchmark(group="gateway")
@pytest.mark.parametrize(
    "request_fields", [{}, {"explain": True}, {"source": "batch"}], ids=["slate", "explain", "stored"]
)
def test_request(benchmark: Any, tmp_path: Any, request_fields: dict[str, Any]) -> None:
    """One POST of 10 items through every layer, from the parsed HTTP request to the bytes of the answer."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(20),
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    body: dict[str, Any] = {"user_id": 7, "n": 10, "exclude_item_ids": [1, 2], **request_fields}
    stored = make_store(published=Published((RUN,)), slates=[(7, make_stored(range(200, 250)))])
    app = make_app(tmp_path, Prepared(RecommendRequest(**body)), stored)
    data = json.dumps(body).encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/recommendations",
        "raw_path": b"/v1/recommendations",
        "query_string": b"",
        "headers": [(b"host", b"gateway"), (b"content-type", b"application/json")],
    }

    async def once() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(dict(scope), receive, send)
        return sent

    with asyncio.Runner() as runner:
        sent = benchmark(lambda: runner.run(once()))
    answer = json.loads(sent[1]["body"])
    assert sent[0]["status"] == 200
    assert len(answer["items"]) == 10
    assert ("explain" in answer) == ("explain" in request_fields)
    assert answer["source"] == request_fields.get("source", "ensemble")


@pytest.mark.benchmark(group="gateway")
def test_tensors(benchmark: Any) -> None:
    """The request's tensors as they go into the message, and the slate out of the answer's."""
    request = RecommendRequest(user_id=7, n=10, exclude_item_ids=[1, 2])
    outputs, deadline = make_outputs(k=100), Deadline.after(5)

    def both() -> Slate:
        for tensor in encode_rows([RequestRow.of(request, deadline, 0, 1.0)], ("context_tab",)).values():
            tensor.tobytes()
        return decode_slate(outputs, request.n, False)

    slate = benchmark(both)
    assert len(slate.item_ids) == 10
    assert PAD_ID not in slate.item_ids
