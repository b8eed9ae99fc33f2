"""What a request may ask of an item, and whether an item passes: the one implementation, for every path.

Values are compared in one canonical form, a text by dtype: so 12.99, asked for, is what a float32 column
holds as 12.989999771118164, whoever compares them. Redis holds the same texts as tags: `keys.encode_tags`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ErrorCode, StageError, WrongField
from contract.tensors import FILTER_WIDTHS, fit_width

Value = bool | int | float | str
Wanted = Mapping[str, Sequence[Value]]
"""Column to the allowed values, as a caller writes them."""
Filters = Mapping[str, AbstractSet[str]]
"""Column to the allowed values in canonical form, as `check_filters` gives them: an item must hold one of the
values in every column."""

JSON_TYPES = {
    "int64": ("integer",),
    "float32": ("integer", "number"),
    "string": ("string",),
    "bool": ("boolean",),
}
"""What a filter's values may be in JSON, by the dtype of the column."""
_PYTHON_TYPES: dict[str, type] = {"integer": int, "number": float, "string": str, "boolean": bool}


def canonical(value: Any, dtype: str) -> str:
    """Writes a value of a column of this dtype, not null, as it is compared.

    Raises:
        ValueError, TypeError, OverflowError: it is no value of such a column.
    """
    if dtype == "string":
        return str(value)
    if dtype == "float32":
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as in the column itself
            return str(float(np.float32(value)) + 0.0)  # -0.0 becomes 0.0
    return str(int(value))


def held_values(cell: Any, dtype: str) -> frozenset[str]:
    """Takes what an item holds in a column, a value, a list or None, gives its values in canonical form.

    Null, NaN included, is none.

    Raises:
        ValueError, TypeError, OverflowError: it holds something else.
    """
    cells = cell if isinstance(cell, list | tuple | np.ndarray) else (cell,)
    return frozenset(canonical(one, dtype) for one in cells if one is not None and one == one)


def passes(filters: Filters, held: Mapping[str, AbstractSet[str]]) -> bool:
    """Whether an item that holds these values, by column, has an allowed one in every column."""
    return all(not allowed.isdisjoint(held.get(column, ())) for column, allowed in filters.items())


def check_filters(wanted: Wanted, dtypes: Mapping[str, str]) -> Filters:
    """Compares filters as a caller wrote them with the columns that the bundle filters on, and their dtypes.

    Raises:
        WrongField: naming the column and what would be right.
    """
    return {column: _allowed(column, values, dtypes) for column, values in wanted.items()}


def _allowed(column: str, values: Sequence[Value], dtypes: Mapping[str, str]) -> frozenset[str]:
    field, dtype = f"filters.{column}", dtypes.get(column)
    if dtype is None:
        remedy = f"use one of {', '.join(sorted(dtypes))}" if dtypes else "it has none; leave it out"
        raise WrongField(field, f"this bundle cannot filter on it: {remedy}")
    if not values:
        raise WrongField(field, "the list is empty: name at least one value, or leave the filter out")
    types = [_PYTHON_TYPES[name] for name in JSON_TYPES[dtype]]
    allowed = set()
    for value in values:
        try:
            if type(value) not in types or value != value or value == "":
                raise TypeError
            allowed.add(canonical(value, dtype).encode().decode())
        except (TypeError, OverflowError, UnicodeError):  # too long for any float; half a character
            raise WrongField(field, f"must list {dtype} values: {value!r} is not of type {dtype}") from None
    return frozenset(allowed)


def encode_filters(wanted: Wanted) -> npt.NDArray[np.uint8]:
    """Packs filters as a caller wrote them, column -> allowed values, as JSON padded with zeros; uint8 (1,F).

    Raises:
        StageError: `bad_request`, where they are longer than the widest tensor.
    """
    data = json.dumps(dict(wanted), separators=(",", ":")).encode() if wanted else b""
    row = np.zeros((1, fit_width(len(data), FILTER_WIDTHS, "filters")), dtype=np.uint8)
    row[0, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    return row


def decode_filters(row: npt.NDArray[np.uint8], dtypes: Mapping[str, str]) -> Filters:
    """Unpacks and checks one row (F,) of `encode_filters`; the same bytes once, however often they are asked
    for.

    Raises:
        StageError: `bad_request`, where it is no mapping of lists, or a column or a value is wrong.
    """
    data = row.tobytes().rstrip(b"\0")
    return _decoded(data, tuple(dtypes.items())) if data else {}


@lru_cache(maxsize=1024)
def _decoded(data: bytes, dtypes: tuple[tuple[str, str], ...]) -> Filters:
    fit_width(len(data), FILTER_WIDTHS, "filters")
    try:
        wanted = json.loads(data)
        if not isinstance(wanted, dict) or not all(isinstance(values, list) for values in wanted.values()):
            raise TypeError
        "".join(wanted).encode()  # a name that is no text cannot be told either
        return check_filters(wanted, dict(dtypes))
    except WrongField as error:
        message = str(error)
    except (TypeError, ValueError, RecursionError):
        message = "filters must map a column to a list of values"
    raise StageError(ErrorCode.BAD_REQUEST, "request", message)
