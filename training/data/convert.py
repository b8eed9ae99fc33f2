"""Brings a column, as a file holds it, to the type that its line in `dataset.yaml` declares.

Nothing is guessed in silence: what cannot be told from the values and the declaration is a problem, whose
remedy names the key that tells it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import Column, Role
from contract.ids import FIRST, LAST, MAX_LENGTH
from contract.items import MOST, MOST_OF_LOGS
from training.data.embeddings import read_embeddings
from training.data.labels import read_labels
from training.data.lists import plain, read_lists
from training.data.prepared import arrow_type
from training.data.times import read_timestamps
from training.data.values import (
    Warn,
    Wrong,
    as_yaml,
    examples,
    kind_of,
    read_numbers,
    said,
    too_large,
)

FEATURES = (Role.CATEGORICAL, Role.NUMERIC, Role.LIST, Role.EMBEDDING)
TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")


@dataclass
class Converted:
    """A column as declared, or None where it cannot be; what is wrong, and what is worth saying."""

    values: pa.ChunkedArray | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def convert(raw: pa.ChunkedArray, column: Column, where: str, *, is_text: bool) -> Converted:
    """Takes a column, its declaration and its place (`file: column name`); `is_text` where the file, a CSV,
    knows text alone, which is then read as the declared type."""
    done = Converted()
    try:
        values = plain(raw)
        if pa.types.is_null(values.type):
            done.values = pa.chunked_array([pa.nulls(len(values), _wanted(column))])
            return done
        warn: Callable[[str], None] = lambda line: done.warnings.append(f"{where} {line}")  # noqa: E731
        done.values = _READERS.get(column.role, _value)(values, column, is_text, warn)
    except Wrong as wrong:
        done.problems.append(f"{where} {wrong}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        done.problems.append(
            f"{where} is {raw.type}, not {said(column)} ({len(raw)} rows: {reason}); convert it"
            + _or_declare(plain(raw).type, column)
        )
    return done


def _wanted(column: Column) -> pa.DataType:
    return pa.string() if column.dtype == "string" and column.role is Role.ID else arrow_type(column)


def _or_declare(given: pa.DataType, column: Column) -> str:
    """Proposes the line that fits what a column holds, where a feature of that kind exists."""
    fits: dict[str, dict[str, str]] = {
        "number": {"role": "numeric"},
        "string": {"role": "categorical", "dtype": "string"},
        "bool": {"role": "categorical", "dtype": "bool"},
        "list of string": {"role": "list", "dtype": "string"},
        "list of number": {"role": "embedding" if _holds_floats(given) else "list"},
    }
    line = fits.get(kind_of(given)) if column.role in FEATURES else None
    if line is None:
        return ", or take its line out of dataset.yaml" if column.role is not Role.ID else ""
    line = line | ({"from": column.source} if column.source else {})
    return f", or make its line `{as_yaml(line)}`"


def _holds_floats(given: pa.DataType) -> bool:
    return bool(pa.types.is_list(given) and pa.types.is_floating(given.value_type))


def _value(values: pa.ChunkedArray, column: Column, is_text: bool, warn: Warn) -> pa.ChunkedArray:
    """Reads categories, numbers, context, what is displayed, and availability."""
    wanted, given = arrow_type(column), kind_of(values.type)
    if column.role in (Role.DISPLAY, Role.DISPLAY_NAME) and given in ("number", "bool", "date"):
        return values.cast(pa.string())
    if column.role is Role.AVAILABILITY:
        return _flags(values, given)
    if pa.types.is_string(wanted):
        if given != "string":
            raise pa.ArrowTypeError(f"{values.type} is another kind of value")
        return values
    if given == "string" and is_text:
        values = read_numbers(values, said(column), _or_declare(values.type, column))
        given = "number"
    if given == "bool":
        values, given = values.cast(pa.int8()), "number"
    if given != "number":
        raise pa.ArrowTypeError(f"{values.type} is another kind of value")
    if pa.types.is_floating(wanted):
        return _floats(values, column, warn)
    return _integers(values, wanted)


AS_TEXT = "write `dtype: string` on it, in each table of dataset.yaml"


def _id(values: pa.ChunkedArray, column: Column, is_text: bool, _: Warn) -> pa.ChunkedArray:
    """Reads ids as they are written: integers exactly, and text as it is, with its spaces."""
    given = kind_of(values.type)
    if column.dtype == "string":
        return _text_ids(values, given)
    if given == "string":
        digits = pc.utf8_trim_whitespace(values)
        wrong = pc.and_(
            pc.is_valid(values), pc.invert(pc.match_substring_regex(digits, r"^[+-]?\d{1,30}(\.0*)?$"))
        )
        if not is_text or pc.any(wrong).as_py():  # a Parquet file knows integers, and these it holds as text
            shown = values.filter(wrong) if pc.any(wrong).as_py() else values
            raise Wrong(f"is text in {len(shown)} rows (such as {examples(shown)}); {AS_TEXT}")
        digits = pc.replace_substring_regex(digits, r"^\+|\.0*$", "")
        whole = [None if text is None else int(text) for text in digits.to_pylist()]
    elif pa.types.is_decimal(values.type) or pa.types.is_uint64(values.type):
        whole = [None if value is None else int(value) for value in values.to_pylist()]
    elif given == "number":
        return values.cast(pa.int64())  # safe: a fraction, or a float beyond 2^53, is refused
    else:
        raise pa.ArrowTypeError(f"{values.type} is another kind of value")
    beyond = [value for value in whole if value is not None and not FIRST <= value <= LAST]
    if beyond:
        raise Wrong(
            f"is {values.type}, and in {len(beyond)} rows beyond the range of int64 (such as {beyond[0]}); "
            f"{AS_TEXT}"
        )
    return pa.chunked_array([pa.array(whole, pa.int64())])


def _text_ids(values: pa.ChunkedArray, given: str) -> pa.ChunkedArray:
    if (pa.types.is_decimal(values.type) and values.type.scale == 0) or pa.types.is_integer(values.type):
        values, given = values.cast(pa.string()), "string"
    if given != "string":
        raise pa.ArrowTypeError(f"{values.type} is another kind of value")
    empty = pc.sum(pc.equal(values, "")).as_py()
    if empty:
        raise Wrong(f"is an empty text in {empty} rows; drop them, or give them an id")
    if long := pc.sum(pc.greater(pc.utf8_length(values), MAX_LENGTH)).as_py():
        raise Wrong(f"is longer than {MAX_LENGTH} characters in {long} rows; shorten them in each table")
    return values


def _integers(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_decimal(values.type) or pa.types.is_uint64(values.type):
        large = int(np.sum([abs(int(v)) > 2**63 - 1 for v in values.drop_null().to_pylist()]))
        if large:
            raise Wrong(
                f"is {values.type}, and in {large} rows beyond the range of int64; declare dtype: string, "
                "and write it as text where the file holds decimals"
            )
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64()) if values.type.scale > 0 else values
    return values.cast(wanted)  # safe: a fraction, or a float beyond 2^53, is refused


def _floats(values: pa.ChunkedArray, column: Column, warn: Warn) -> pa.ChunkedArray:
    array = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=True)
    if infinite := int(np.isinf(array).sum()):
        warn(f"is infinite in {infinite} rows; they are taken as null")
        array[np.isinf(array)] = np.nan
    most = MOST_OF_LOGS if column.is_log else MOST
    beyond = np.abs(np.nan_to_num(array)) > most
    if beyond.any():
        if not column.clip:
            raise too_large(int(beyond.sum()), array[beyond][0], most)
        warn(f"is clipped in {int(beyond.sum())} rows to {most:g}")
        array = np.clip(array, -most, most)
    wanted = arrow_type(column)
    narrow = array.astype(np.float32) if pa.types.is_floating(wanted) else array
    return pa.chunked_array([pa.array(narrow, wanted, mask=np.isnan(array))])


def _flags(values: pa.ChunkedArray, given: str) -> pa.ChunkedArray:
    if given == "bool":
        return values
    words = pc.utf8_lower(pc.utf8_trim_whitespace(values if given == "string" else values.cast(pa.string())))
    is_true, is_false = pc.is_in(words, pa.array(TRUE)), pc.is_in(words, pa.array(FALSE))
    known = pc.or_(is_true, is_false)
    wrong = pc.and_(pc.is_valid(words), pc.invert(known))
    if pc.any(wrong).as_py():
        raise Wrong(
            f"is {values.type}, and in {pc.sum(wrong).as_py()} rows neither true nor false (such as "
            f"{examples(values.filter(wrong))}); write booleans, or take its line out of dataset.yaml"
        )
    return pc.if_else(pc.is_valid(words), is_true, pa.scalar(None, pa.bool_()))


_READERS: dict[Role, Callable[[pa.ChunkedArray, Column, bool, Warn], pa.ChunkedArray]] = {
    Role.ID: _id,
    Role.LABEL: read_labels,
    Role.LIST: read_lists,
    Role.EMBEDDING: lambda values, column, _, warn: read_embeddings(values, column, warn),
    Role.TIMESTAMP: read_timestamps,
}
"""How each role's column is read; `_value` reads the others."""
