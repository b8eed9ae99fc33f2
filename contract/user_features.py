"""Features of a user that a request brings along: taken in place of those that are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ErrorCode, StageError, WrongField, one_of
from contract.filters import element, shown
from contract.names import NULL_INT
from contract.tensors import USER_FEATURE_WIDTHS, fit_width

Given = Mapping[str, Any]
"""Column to its value: a number, text, true or false, or a list of such; None where it is not known."""

_INT64_MAX = 2**63 - 1
FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_user_features(given: Given, dtypes: Mapping[str, str]) -> Given:
    """Compares features as a caller wrote them with the columns of the bundle's users, and their dtypes, of
    which one that holds lists reads `list[int64]`; gives them, numbers of float32 columns as floats.

    Raises:
        WrongField: naming the column and what would be right.
    """
    checked: dict[str, Any] = {}
    for column, value in given.items():
        checked[column] = value
        field, dtype = f"user_features.{column}", dtypes.get(column)
        if dtype is None:
            raise WrongField(field, f"is no feature of this bundle's users: {one_of(sorted(dtypes))}")
        if value is None:
            continue
        kind = element(dtype)
        is_list = kind != dtype
        if is_list != isinstance(value, list):
            raise WrongField(field, f"must be {'a list' if is_list else 'one value'} of dtype {kind}")
        for one in value if is_list else (value,):
            if not is_of(one, kind):
                raise WrongField(field, f"must hold {kind} values: {shown(one)} is not of that dtype")
        if kind == "float32":
            checked[column] = float(value)
    return checked


def encode_user_features(given: Given) -> npt.NDArray[np.uint8]:
    """Packs features as JSON padded with zeros; uint8 (1,U).

    Raises:
        StageError: `bad_request`, where they are longer than the widest tensor.
    """
    data = json.dumps(dict(given), separators=(",", ":")).encode()
    row = np.zeros((1, fit_width(len(data), USER_FEATURE_WIDTHS, "user_features")), dtype=np.uint8)
    row[0, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    return row


def decode_user_features(row: npt.NDArray[np.uint8], dtypes: Mapping[str, str]) -> Given:
    """Unpacks and checks one row (U,) of `encode_user_features`.

    Raises:
        StageError: `bad_request`, where it is no mapping, or a column or a value is wrong.
    """
    data = row.tobytes().rstrip(b"\0")
    try:
        given = json.loads(data)
        if not isinstance(given, dict):
            raise TypeError
        "".join(given).encode()  # a name that is no text cannot be told either
        return check_user_features(given, dtypes)
    except WrongField as error:
        message = str(error)
    except (TypeError, ValueError, RecursionError):
        message = "user_features must map a column to its value"
    raise StageError(ErrorCode.BAD_REQUEST, "request", message)


def is_of(value: Any, dtype: str) -> bool:
    """Whether a value of JSON is one of a dtype."""
    if dtype == "string":
        return isinstance(value, str) and value != "" and _is_whole(value)
    if dtype == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if dtype == "int64":
        return isinstance(value, int) and NULL_INT < value <= _INT64_MAX
    return abs(value) <= FLOAT32_MAX  # no infinity, and no NaN, which is not even equal to itself


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True
