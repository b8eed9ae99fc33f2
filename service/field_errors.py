"""What pydantic finds wrong with a field, as callers are told it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

_REMEDIES = {
    "missing": "is missing: send it",
    "extra_forbidden": "is not a field of this request: remove it, or see /docs for the fields",
    "json_invalid": "is not valid JSON",
    "int_type": "must be an integer, without quotes or decimals",
    "string_type": "must be a string",
    "int_from_float": "must be an integer, without decimals",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be a JSON object sent with content-type: application/json",
}
_SHOULD = re.compile(r"^\w+ should")
"""How pydantic begins: Input, List, String, Dictionary ... should."""
_NOT_THE_CALLERS = (
    "bool",
    "int",
    "float",
    "str",
    "constrained-int",
    "constrained-float",
    "constrained-str",
    "[key]",
)
"""Ends of a location that name a branch of a union, or a mapping's key: no field of the caller's."""


def errors_of(error: ValidationError) -> list[Mapping[str, Any]]:
    """All that pydantic finds wrong, without what was sent beside it."""
    return [*error.errors(include_url=False, include_context=False)]


def body_refused(errors: Iterable[Mapping[str, Any]]) -> RequestValidationError:
    """Makes the error of a request whose body has these faults."""
    return RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in errors])


def field_error(error: Mapping[str, Any]) -> tuple[str, str]:
    """Takes one error of pydantic's, gives the field as the caller wrote it and what it must be."""
    kind, location = error["type"], list(error["loc"])
    where = location[0] if location else "body"
    path = [str(part) for part in location[1:]]
    if kind == "json_invalid":  # its location is a byte offset
        return "body", f"is not valid JSON near byte {path[0] if path else 0}"
    if path and path[-1] in _NOT_THE_CALLERS:
        path.pop()
    text = error["msg"].replace("Value error, ", "").replace(" after validation", "")
    message = _REMEDIES.get(kind) or _SHOULD.sub("must", text)
    return ".".join(path) or str(where), message
