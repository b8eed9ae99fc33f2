"""The body of a request: read whole, within a bounded size and time, and JSON without surprises."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pydantic import ValidationError
from starlette.types import Receive, Scope

from service.failures import BodyRefused
from service.field_errors import body_refused, errors_of
from service.own_ids import OwnIds
from service.schemas import ManyRequest, SlateWish
from service.settings import Settings

Body = SlateWish | ManyRequest
JSON = b"application/json"
DEPTH = 11
"""Of the deepest valid body: the object, `requests`, one of them, its `rules`, `boosts`, one of them, its
`filters`, a column's object, its `not`, that one's `any`, the values."""


async def read_request(
    scope: Scope, receive: Receive, settings: Settings, ids: OwnIds, kind: type[SlateWish] | type[ManyRequest]
) -> Body | None:
    """Reads and checks a request of a kind; None where the caller left before it was whole.

    Raises:
        BodyRefused: the body is too long, too late, not JSON, or JSON that parsers disagree on.
        WrongField: an id is not of the kind that the bundle's are.
        RequestValidationError: a field is wrong, missing or unknown.
    """
    document = await read_document(scope, receive, settings.max_body_bytes, settings.receive_timeout_ms)
    if document is None:
        return None
    try:
        if ids.are_numbers or not isinstance(document, dict):
            return kind.model_validate(document)
        texts = ids.number_body(document)
        return kind.model_validate(document).of_texts(texts)
    except ValidationError as error:
        raise body_refused(errors_of(error)) from None


async def read_document(scope: Scope, receive: Receive, max_bytes: int, timeout_ms: int) -> Any:
    """Reads a body that must be JSON; None where the caller left before it was whole.

    Raises:
        BodyRefused: the body is too long, too late, not JSON, or JSON that parsers disagree on.
        RequestValidationError: there is none.
    """
    check_head(scope, max_bytes)
    body = await read_body(receive, max_bytes, timeout_ms)
    if body is None:
        return None
    document = parse_json(body) if body else None
    if document is None:  # nothing, or null
        kind = "model_type" if body else "missing"
        raise body_refused([{"type": kind, "loc": (), "msg": "", "input": None}])
    return document


async def read_body(receive: Receive, max_bytes: int, timeout_ms: int) -> bytes | None:
    """Reads a body; None where the caller left.

    Raises:
        BodyRefused: it is longer than `max_bytes`, or did not come within `timeout_ms`.
    """
    parts: list[bytes] = []
    length = 0
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                length += len(part)
                if length > max_bytes:
                    raise _too_long(max_bytes)
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        detail = f"The body did not come within {timeout_ms} ms: send it at once"
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


def parse_json(body: bytes) -> Any:
    """Parses a body; looks for what JSON parsers disagree on: other encodings, names given twice, half
    characters.

    Raises:
        BodyRefused: the body has one of these, is nested too deep, or is not JSON.
    """
    try:
        document = _DECODER.decode(body.decode())
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False).encode()
        return document
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


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
