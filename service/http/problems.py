"""What can go wrong, who is responsible, and how the caller is told: RFC 9457 problem documents.

Source: RFC 9457, Problem Details for HTTP APIs, section 3.
"""

from __future__ import annotations

import json
from http import HTTPMethod, HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from contract.errors import ErrorCode, StageError, WrongField
from service.events.refused import EntriesRefused
from service.failures import BodyRefused, DependencyUnavailable
from service.field_errors import field_error

log = structlog.get_logger()

PROBLEM_TYPE = "application/problem+json"
STATUS = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.CONTRACT: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.DEPENDENCY: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The one table from a stage's error code to a status.

A dependency's failure is normally answered by the fallback.
"""


def problem_document(status: int, detail: str, *, request_id: str = "", **more: Any) -> dict[str, Any]:
    """Builds a problem document; `detail` says what is wrong and what to do, for the caller's eyes."""
    document: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase}
    document |= {"status": int(status), "detail": detail}
    if request_id:
        document["instance"] = f"urn:request:{request_id}"
    return document | more


def problem(status: int, detail: str, *, request_id: str = "", **more: Any) -> Response:
    """Answers with a problem document."""
    document = problem_document(status, detail, request_id=request_id, **more)
    return Response(json.dumps(document).encode(), int(status), media_type=PROBLEM_TYPE)


def request_id_of_scope(scope: Scope) -> str:
    """The id that the outermost layer gave to this request."""
    return str(scope.get("state", {}).get("request_id", ""))


def request_id_of(request: Request) -> str:
    """The id that the outermost layer gave to this request."""
    return request_id_of_scope(request.scope)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    messages: dict[str, list[str]] = {}
    for one in error.errors():
        field, message = field_error(one)
        if message not in messages.setdefault(field, []):  # one per branch, where several types are allowed
            messages[field].append(message)
    wrong = [{"field": field, "message": " or ".join(several)} for field, several in messages.items()]
    is_json = not any(one["type"] == "json_invalid" for one in error.errors())
    detail = "; ".join(f"{one['field']} {one['message']}" for one in wrong)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if is_json else HTTPStatus.BAD_REQUEST
    return problem(status, detail, request_id=request_id_of(request), errors=wrong)


async def _on_wrong_field(request: Request, error: Exception) -> Response:
    assert isinstance(error, WrongField)
    wrong = {"field": error.field, "message": error.message}
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"{error.field} {error.message}",
        request_id=request_id_of(request),
        errors=[wrong],
    )


async def _on_entries_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, EntriesRefused)
    errors = [one.model_dump() for one in error.errors]
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return problem(status, str(error), request_id=request_id_of(request), errors=errors)


async def _on_body_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyRefused)
    request.app.state.router.metrics.answers.refused(error.reason)
    request_id = request_id_of(request)
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        wrong = {"field": error.field, "message": error.detail}
        return problem(error.status, f"{error.field} {error.detail}", request_id=request_id, errors=[wrong])
    response = problem(error.status, error.detail, request_id=request_id)
    if error.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        response.headers["accept"] = "application/json"
    return response


def _nearest(request: Request) -> str:
    """Says where to look instead of a path that is no route's: one with a slash too many has a right one."""
    right = "/" + "/".join(part for part in request.url.path.split("/") if part)
    scope = {**request.scope, "path": right}
    if any(route.matches(scope)[0] is not Match.NONE for route in request.app.router.routes):
        return f"ask {right}, without the slash too many"
    return "see /docs for the routes"


def _methods(request: Request) -> str:
    """The methods that a path has, which may be those of several routes."""
    scope = {name: request.scope[name] for name in ("type", "path", "root_path")}
    routes = request.app.router.routes
    return ", ".join(
        method
        for method in HTTPMethod
        if any(route.matches({**scope, "method": method.value})[0] is Match.FULL for route in routes)
    )


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {
        HTTPStatus.BAD_REQUEST: "The body cannot be read: send one JSON object",
        HTTPStatus.NOT_FOUND: f"{request.url.path} does not exist here: {_nearest(request)}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not allowed here: see /docs for the methods",
    }.get(HTTPStatus(error.status_code), str(error.detail))
    response = problem(error.status_code, detail, request_id=request_id_of(request))
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = _methods(request)
    return response


async def _on_stage_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StageError)
    more = {"code": str(error.code), "stage": error.stage}
    if error.code is ErrorCode.BAD_REQUEST:
        return problem(STATUS[error.code], error.message, request_id=request_id_of(request), **more)
    # The message is about our own insides: it goes to the log, the caller gets the id to find it by.
    log.error(
        "stage_error",
        request_id=request_id_of(request),
        stage=error.stage,
        code=error.code,
        error=error.message,
    )
    detail = f"The stage {error.stage} broke its contract; this is our fault. Report the request id."
    return problem(STATUS[error.code], detail, request_id=request_id_of(request), **more)


async def _on_dependency(request: Request, error: Exception) -> Response:
    assert isinstance(error, DependencyUnavailable)
    response = problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{error.dependency} does not answer: try again shortly",
        request_id=request_id_of(request),
        dependency=error.dependency,
    )
    response.headers["retry-after"] = "1"
    return response


def install_handlers(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(EntriesRefused, _on_entries_refused)
    app.add_exception_handler(BodyRefused, _on_body_refused)
    app.add_exception_handler(WrongField, _on_wrong_field)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(StageError, _on_stage_error)
    app.add_exception_handler(DependencyUnavailable, _on_dependency)
