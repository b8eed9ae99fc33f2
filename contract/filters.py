"""What a request may ask of an item, and whether an item passes: the one implementation, for every path.

Values are compared in one canonical form, a text by dtype: so 12.99, asked for, is what a float32 column
holds as 12.989999771118164, whoever compares them. Redis holds the same texts as tags, and beside them the
numbers that ranges are about: `keys.encode_tags`, `index_number`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ErrorCode, StageError, WrongField, one_of
from contract.tensors import FILTER_WIDTHS, fit_width

Wanted = Mapping[str, Any]
"""Column to what is asked of it, as a caller writes it: a list of allowed values, or an object of `any` (such
a list), `gt`, `gte`, `lt`, `lte` (bounds of a number) and `not` (a list, or an object of the others). Null
among the values is an item without one."""

MAX_VALUES = 1024
"""Of one list."""
MAX_TEXT = 256
"""Characters of a text among the values."""
MOST_BOUND = 2**53 - 1
"""Greatest bound of integers, either way: up to here they are exact as the doubles that Redis compares."""
BOUNDS = ("gt", "gte", "lt", "lte")
_TYPES: dict[str, tuple[type, ...]] = {
    "int64": (int,),
    "float32": (int, float),
    "string": (str,),
    "bool": (bool,),
}
"""What a value may be, as JSON is read, by the dtype of the column; no subclass of it."""
_BEYOND_FLOAT32 = 1e39
"""Stands for infinite in Redis' index, which averages the numbers that it holds."""


def list_of(dtype: str) -> str:
    """Names the dtype of a column that holds lists."""
    return f"list[{dtype}]"


def element(dtype: str) -> str:
    """Names the dtype of a column's values, whether or not it holds lists."""
    return dtype.removeprefix("list[").removesuffix("]")


def has_range(dtype: str) -> bool:
    """Whether a column of this dtype may be asked for a range: it holds one number."""
    return dtype in ("int64", "float32")


def canonical(value: Any, dtype: str) -> str:
    """Writes a value of a column of this dtype, not null, as it is compared.

    Raises:
        ValueError, TypeError, OverflowError: it is no value of such a column.
    """
    kind = element(dtype)
    if kind == "string":
        return str(value)
    if kind == "float32":
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as in the column itself
            return str(float(np.float32(value)) + 0.0)  # -0.0 becomes 0.0
    return str(int(value))


def number(text: str, dtype: str) -> float:
    """Reads a canonical form as a number; one of an int64 column is exact, as an int."""
    return int(text) if element(dtype) == "int64" else float(text)


def index_number(value: float) -> str:
    """Writes a number, or a bound, as Redis' index compares it; what is infinite, as a number beyond all of
    float32."""
    if isinstance(value, float) and math.isinf(value):
        value = math.copysign(_BEYOND_FLOAT32, value)
    return repr(value)


def held_values(cell: Any, dtype: str) -> frozenset[str]:
    """Takes what an item holds in a column, a value, a list or None, gives its values in canonical form.

    Null, NaN included, is none.

    Raises:
        ValueError, TypeError, OverflowError: it holds something else.
    """
    cells = cell if isinstance(cell, list | tuple | np.ndarray) else (cell,)
    return frozenset(canonical(one, dtype) for one in cells if one is not None and one == one)


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers of a column; an end that is open does not belong to it."""

    dtype: str
    low: float = -math.inf
    high: float = math.inf
    is_low_open: bool = False
    is_high_open: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether it holds the number."""
        is_above = value > self.low or (value == self.low and not self.is_low_open)
        return is_above and (value < self.high or (value == self.high and not self.is_high_open))


@dataclass(frozen=True, slots=True)
class Condition:
    """What is asked of one column: every part that is told must be so.

    An item must hold one of the `allowed` values (None: it may hold none), a number `within` the range, and
    must not fulfil `unless`.
    """

    allowed: frozenset[str | None] | None = None
    within: Range | None = None
    unless: Condition | None = None

    def is_met(self, held: AbstractSet[str]) -> bool:
        """Takes the values that an item holds, in canonical form; null is none."""
        if self.allowed is not None and self.allowed.isdisjoint(held or (None,)):
            return False
        within = self.within
        if within is not None and not any(number(text, within.dtype) in within for text in held):
            return False
        return self.unless is None or not self.unless.is_met(held)


Filters = Mapping[str, Condition]
"""Column to its condition, as `check_filters` gives them: an item must meet every one."""


def passes(filters: Filters, held: Mapping[str, AbstractSet[str]]) -> bool:
    """Whether an item that holds these values, by column, meets every condition; where nothing is known of
    a column, not even null, it does not."""
    return all(column in held and one.is_met(held[column]) for column, one in filters.items())


def check_filters(wanted: Wanted, dtypes: Mapping[str, str]) -> Filters:
    """Compares filters as a caller wrote them with the columns that the bundle filters on, and their dtypes.

    Raises:
        WrongField: naming the column and what would be right.
    """
    return {column: _column_condition(column, written, dtypes) for column, written in wanted.items()}


def _column_condition(column: str, written: Any, dtypes: Mapping[str, str]) -> Condition:
    field, dtype = f"filters.{column}", dtypes.get(column)
    if dtype is None:
        raise WrongField(field, f"this bundle cannot filter on it: {one_of(sorted(dtypes))}")
    return _condition(field, written, dtype, may_negate=True)


def _condition(field: str, written: Any, dtype: str, may_negate: bool) -> Condition:
    if isinstance(written, list):
        return Condition(_allowed(field, written, dtype))
    parts = [name for name in ("any", *BOUNDS, "not") if _may_have(name, dtype, may_negate)]
    if not isinstance(written, dict):
        raise WrongField(field, f"must be a list of {element(dtype)} values, or an object of {_or(parts)}")
    if not written:
        raise WrongField(field, f"the object is empty: say {_or(parts)}, or leave the filter out")
    for name in written:
        part = f"{field}.{name[:64].encode(errors='replace').decode()}"
        if name in BOUNDS and not has_range(dtype):
            raise WrongField(part, f"a {dtype} column has no range: list the values instead")
        if name not in parts:
            raise WrongField(part, f"is not known here: use {_or(parts)}")
    return Condition(
        _allowed(f"{field}.any", written["any"], dtype) if "any" in written else None,
        _range(field, written, dtype),
        _condition(f"{field}.not", written["not"], dtype, may_negate=False) if "not" in written else None,
    )


def _may_have(part: str, dtype: str, may_negate: bool) -> bool:
    return part == "any" or (may_negate if part == "not" else has_range(dtype))


def _or(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _allowed(field: str, values: Any, dtype: str) -> frozenset[str | None]:
    if not isinstance(values, list):
        raise WrongField(field, f"must be a list of {element(dtype)} values")
    if not values:
        raise WrongField(field, "the list is empty: name at least 1 value, or leave the filter out")
    if len(values) > MAX_VALUES:
        raise WrongField(field, f"lists {len(values)} values: list at most {MAX_VALUES}")
    return frozenset(None if value is None else _value(field, value, dtype) for value in values)


def _value(field: str, value: Any, dtype: str) -> str:
    """Checks one value that is not null, gives its canonical form."""
    kind = element(dtype)
    try:
        if type(value) not in _TYPES[kind] or value == "":
            raise TypeError
        if kind == "float32" and not math.isfinite(value):
            raise WrongField(field, f"must list float32 values: {value} is not a finite number")
        if kind == "int64" and not -(2**63) <= value < 2**63:
            raise OverflowError
        text = canonical(value, dtype).encode().decode()
    except (TypeError, OverflowError, UnicodeError):  # too long for any float; half a character
        message = f"must list {kind} values: {shown(value)} is not of type {kind}"
        raise WrongField(field, message) from None
    if kind == "string" and len(text) > MAX_TEXT:
        raise WrongField(field, f"lists a text of {len(text)} characters: at most {MAX_TEXT} are compared")
    return text


def _range(field: str, written: Mapping[str, Any], dtype: str) -> Range | None:
    bounds = {name: _bound(f"{field}.{name}", written[name], dtype) for name in BOUNDS if name in written}
    if not bounds:
        return None
    lows = ((bounds[name], name == "gt") for name in ("gt", "gte") if name in bounds)
    highs = ((bounds[name], name == "lte") for name in ("lt", "lte") if name in bounds)
    low, is_low_open = max(lows, default=(-math.inf, False))
    high, is_high_closed = min(highs, default=(math.inf, True))
    return Range(dtype, low, high, is_low_open, not is_high_closed)


def _bound(field: str, value: Any, dtype: str) -> float:
    try:
        if type(value) not in _TYPES[dtype] or not math.isfinite(value):
            raise TypeError
        text = canonical(value, dtype)
    except (TypeError, OverflowError):  # too long for any float
        raise WrongField(field, f"must be one finite {dtype} number: {shown(value)} is none") from None
    if dtype == "int64" and abs(value) > MOST_BOUND:
        raise WrongField(field, f"must be from -{MOST_BOUND} to {MOST_BOUND}: take a nearer bound")
    return number(text, dtype)


def shown(value: Any) -> str:
    """Writes a wrong value as a message shows it: its beginning."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of so many digits"
    except RecursionError:
        text = "a list of so many lists"
    return text if len(text) <= 80 else f"{text[:80]}..."


def filter_schema(dtype: str) -> dict[str, Any]:
    """Describes in JSON Schema what may be asked of a column of this dtype."""
    kinds: dict[str, dict[str, Any]] = {
        "int64": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        "float32": {"type": "number"},
        "string": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
        "bool": {"type": "boolean"},
    }
    value = kinds[element(dtype)]
    items = {"anyOf": [value, {"type": "null"}]}
    values = {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_VALUES}
    bound = value | ({"minimum": -MOST_BOUND, "maximum": MOST_BOUND} if dtype == "int64" else {})
    parts: dict[str, Any] = {"any": values} | (dict.fromkeys(BOUNDS, bound) if has_range(dtype) else {})
    positive = {"anyOf": [values, _object(parts)]}
    return {"anyOf": [values, _object(parts | {"not": positive})]}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
        "minProperties": 1,
    }


def encode_filters(wanted: Wanted) -> npt.NDArray[np.uint8]:
    """Packs filters as a caller wrote them, as JSON padded with zeros; uint8 (1,F).

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
        StageError: `bad_request`, where it is no mapping, or a column or a condition is wrong.
    """
    data = row.tobytes().rstrip(b"\0")
    return _decoded(data, tuple(dtypes.items())) if data else {}


@lru_cache(maxsize=1024)
def _decoded(data: bytes, dtypes: tuple[tuple[str, str], ...]) -> Filters:
    fit_width(len(data), FILTER_WIDTHS, "filters")
    try:
        wanted = json.loads(data)
        if not isinstance(wanted, dict):
            raise TypeError
        "".join(wanted).encode()  # a name that is no text cannot be told either
        return check_filters(wanted, dict(dtypes))
    except WrongField as error:
        message = str(error)
    except (TypeError, ValueError, RecursionError):
        message = "filters must map a column to a list of values, or to an object"
    raise StageError(ErrorCode.BAD_REQUEST, "request", message)
