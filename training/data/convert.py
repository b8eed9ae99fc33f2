"""Brings a column, as a file holds it, to the type that its line in `dataset.yaml` declares.

Nothing is guessed in silence: what cannot be told from the values and the declaration is a problem, whose
remedy names the key that tells it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import COMPARE, Column, Role
from contract.ids import FIRST, LAST, MAX_LENGTH
from training.data.embeddings import read_embeddings
from training.data.prepared import arrow_type
from training.data.values import (
    EXAMPLES,
    MOST,
    Warn,
    Wrong,
    as_yaml,
    examples,
    no_separator,
    positives,
    too_large,
)

FIRST_US, LAST_US = -9_223_372_036_854_775, 9_223_372_036_854_775
"""The instants that nanoseconds since 1970 hold, 1677 to 2262, in microseconds."""
DAY_US = 86_400 * 10**6
ISO = r"^\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|z|[+-]\d{2}(:?\d{2})?)?)?\s*$"
FORMATS = (
    "%d-%m-%Y", "%m-%d-%Y", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%Y%m%d",
    "%d-%m-%Y %H:%M:%S", "%m-%d-%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%Y/%m/%d %H:%M:%S", "%b %d, %Y", "%d %b %Y", "%d %b %Y, %H:%M",
)  # fmt: skip
"""Patterns that are tried on text that is no ISO 8601, to name those that fit; the user chooses."""
UNITS = {"s": 10**6, "ms": 10**3, "us": 1, "ns": None}
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
        values = _plain(raw)
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
            + _or_declare(_plain(raw).type, column)
        )
    return done


def _wanted(column: Column) -> pa.DataType:
    return pa.string() if column.dtype == "string" and column.role is Role.ID else arrow_type(column)


def said(column: Column) -> str:
    """Says what a column is declared to hold."""
    return f"a list of {column.dtype}" if column.is_several else str(column.dtype)


def _or_declare(given: pa.DataType, column: Column) -> str:
    """Proposes the line that fits what a column holds, where a feature of that kind exists."""
    fits: dict[str, dict[str, str]] = {
        "number": {"role": "numeric"},
        "string": {"role": "categorical", "dtype": "string"},
        "bool": {"role": "categorical", "dtype": "bool"},
        "list of string": {"role": "list", "dtype": "string"},
        "list of number": {"role": "embedding" if _holds_floats(given) else "list"},
    }
    line = fits.get(_kind(given)) if column.role in FEATURES else None
    if line is None:
        return ", or take its line out of dataset.yaml" if column.role is not Role.ID else ""
    line = line | ({"from": column.source} if column.source else {})
    return f", or make its line `{as_yaml(line)}`"


def _holds_floats(given: pa.DataType) -> bool:
    return bool(pa.types.is_list(given) and pa.types.is_floating(given.value_type))


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Takes off what only says how values are stored: dictionaries, extension types, views, wide offsets."""
    if pa.types.is_run_end_encoded(values.type):
        values = pa.chunked_array(
            [pc.run_end_decode(chunk) for chunk in values.chunks], values.type.value_type
        )
    if isinstance(values.type, pa.ExtensionType):
        values = pa.chunked_array([chunk.storage for chunk in values.chunks], values.type.storage_type)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if _is_text(values.type):
        values = _as_text(values)
    elif _is_view(values.type):  # Arrow casts none of these yet
        values = pa.chunked_array([pa.array(values.to_pylist(), pa.list_(values.type.value_type))])
    if pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))
    if pa.types.is_list(values.type):
        element = values.type.value_type
        if pa.types.is_dictionary(element) or _is_text(element):
            array = values.combine_chunks()
            flat = _plain(pa.chunked_array([array.flatten()])).combine_chunks()
            values = _rebuilt(values, flat)
    return values


def _is_text(given: pa.DataType) -> bool:
    return given in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Gives plain strings; bytes are taken for UTF-8, as some programs write text."""
    if values.type in (pa.string_view(), pa.binary_view()):
        kind = pa.string() if values.type == pa.string_view() else pa.binary()
        values = pa.chunked_array([pa.array(values.to_pylist(), kind)])
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        raise Wrong(
            f"is {values.type}, bytes that are no text in UTF-8; write it as text, or take its line out"
        ) from None


def _is_view(given: pa.DataType) -> bool:
    return isinstance(given, pa.ListViewType | pa.LargeListViewType)


def _kind(given: pa.DataType) -> str:
    if pa.types.is_list(given):
        return f"list of {_kind(given.value_type)}"
    if pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given):
        return "number"
    if pa.types.is_string(given):
        return "string"
    if pa.types.is_boolean(given):
        return "bool"
    if pa.types.is_date(given):
        return "date"
    return "timestamp" if pa.types.is_timestamp(given) else str(given)


def _value(values: pa.ChunkedArray, column: Column, is_text: bool, warn: Warn) -> pa.ChunkedArray:
    """Reads categories, numbers, context, what is displayed, and availability."""
    wanted, given = arrow_type(column), _kind(values.type)
    if column.role in (Role.DISPLAY, Role.DISPLAY_NAME) and given in ("number", "bool", "date"):
        return values.cast(pa.string())
    if column.role is Role.AVAILABILITY:
        return _flags(values, given)
    if pa.types.is_string(wanted):
        if given != "string":
            raise pa.ArrowTypeError(f"{values.type} is another kind of value")
        return values
    if given == "string" and is_text:
        values = _numbers(values, said(column), _or_declare(values.type, column))
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
    given = _kind(values.type)
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
    beyond = np.abs(np.nan_to_num(array)) > MOST
    if beyond.any():
        if not column.clip:
            raise too_large(int(beyond.sum()), array[beyond][0])
        warn(f"is clipped in {int(beyond.sum())} rows to {MOST:g}")
        array = np.clip(array, -MOST, MOST)
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


def _numbers(texts: pa.ChunkedArray, wanted: str, remedy: str = "") -> pa.ChunkedArray:
    """Reads the text of a CSV as numbers: int64 where all are whole, else float64. Where they are none, the
    `remedy` is beside that of correcting them."""
    trimmed = pc.utf8_trim_whitespace(texts)
    trimmed = pc.if_else(
        pc.is_in(trimmed, pa.array(["", "NA", "NaN", "nan", "null", "NULL", "None"])), None, trimmed
    )
    whole = pc.match_substring_regex(trimmed, r"^[+-]?\d{1,18}$")
    if pc.all(whole).as_py() is not False:
        return pc.cast(pc.replace_substring_regex(trimmed, r"^\+", ""), pa.int64())
    words = {"true": "1", "false": "0"}
    flags = pc.is_in(pc.utf8_lower(trimmed), pa.array(list(words)))
    if pc.all(flags).as_py():
        return pc.cast(pc.equal(pc.utf8_lower(trimmed), "true"), pa.int64())
    number = pc.match_substring_regex(
        trimmed, r"^[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|[iI]nf(inity)?)$"
    )
    wrong = pc.and_(pc.is_valid(trimmed), pc.invert(number))
    if pc.any(wrong).as_py():
        raise Wrong(
            f"holds no {wanted} in {pc.sum(wrong).as_py()} rows (such as {examples(texts.filter(wrong))}); "
            f"correct them, or leave them empty{remedy}"
        )
    return pc.cast(pc.replace_substring_regex(trimmed, r"^\+", ""), pa.float64())


def _label(values: pa.ChunkedArray, column: Column, is_text: bool, _: Warn) -> pa.ChunkedArray:
    given = _kind(values.type)
    if column.positive is None:
        if given == "string":
            if not is_text:
                raise Wrong(f"is text ({len(values)} rows); say which are positive: `{positives(values)}`")
            try:
                values = _numbers(values, "number")
            except Wrong:
                raise Wrong(
                    f"is text ({len(values)} rows); say which are positive: `{positives(values)}`"
                ) from None
        if given == "bool":
            values = values.cast(pa.int8())
        numbers = values.cast(pa.float64(), safe=False)
        wrong = pc.and_(pc.is_valid(numbers), pc.invert(pc.is_in(numbers, pa.array([0.0, 1.0]))))
        if pc.any(wrong).as_py():
            high = np.nanquantile(numbers.drop_null().to_numpy(), 0.5)
            raise Wrong(
                f"is neither 0, 1 nor null in {pc.sum(wrong).as_py()} rows; a label is one of these: say "
                f'which are positive, such as `positive: ">= {high:g}"`'
            )
        return numbers.cast(pa.int64())
    if column.comparison is not None:
        operator, bound = column.comparison
        if given == "string" and not is_text:
            raise Wrong(
                f"is text ({len(values)} rows), which is compared with no number; name the values: "
                f"`{positives(values)}`"
            )
        numbers = (_numbers(values, "number") if given == "string" else values).cast(pa.float64(), safe=False)
        array = numbers.to_numpy()
        positive = COMPARE[operator](array, bound).astype(np.int64)
        return pa.chunked_array([pa.array(positive, pa.int64(), mask=np.isnan(array))])
    assert isinstance(column.positive, list)
    if given == "string":
        chosen = pc.is_in(pc.utf8_trim_whitespace(values), pa.array([str(v) for v in column.positive]))
    else:
        try:
            wanted = [float(v) for v in column.positive]
        except ValueError:
            raise Wrong(
                f"is {values.type}, and `positive:` names text; name numbers: `{positives(values)}`"
            ) from None
        chosen = pc.is_in(values.cast(pa.float64(), safe=False), pa.array(wanted))
    if not pc.any(chosen).as_py():
        raise Wrong(
            f"holds none of the values of `positive:` in {len(values)} rows; name those that it holds: "
            f"`{positives(values)}`"
        )
    return pc.if_else(pc.is_valid(values), chosen.cast(pa.int64()), None)


def _list(values: pa.ChunkedArray, column: Column, _: bool, warn: Warn) -> pa.ChunkedArray:
    wanted, given = arrow_type(column), _kind(values.type)
    if given == "string":
        if column.separator is None:
            raise no_separator(values, said(column))
        parts = pc.split_pattern(values, column.separator)
        flat = pc.utf8_trim_whitespace(parts.combine_chunks().flatten())
        values = _rebuilt(parts, pc.if_else(pc.equal(flat, ""), None, flat))
        if column.dtype != "string":
            flat = values.combine_chunks().flatten()
            values = _rebuilt(values, _numbers(pa.chunked_array([flat]), said(column)).combine_chunks())
    elif column.separator is not None:
        warn(f"is {values.type} already: its `separator:` is not used")
    if not pa.types.is_list(values.type):
        raise pa.ArrowTypeError(f"{values.type} is another kind of value")
    array = values.combine_chunks()
    flat = array.flatten()
    if flat.null_count:
        if not pa.types.is_null(flat.type) and given != "string":
            warn(f"holds {flat.null_count} nulls within its lists; they are left out")
        values = _without_nulls(array)
    element = _kind(values.type.value_type)
    if element == "null":
        return values.cast(wanted)
    if element == "bool":
        values, element = values.cast(pa.list_(pa.int8())), "number"
    if element != _kind(wanted.value_type):
        raise pa.ArrowTypeError(f"{values.type} is another kind of value")
    return values.cast(wanted)


def _rebuilt(lists: pa.ChunkedArray, flat: pa.Array) -> pa.ChunkedArray:
    """Puts other elements, as many and in the same order, into lists."""
    array = lists.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return _lists(flat, lengths, array)


def _without_nulls(array: pa.ListArray) -> pa.ChunkedArray:
    flat, rows = array.flatten(), pc.list_parent_indices(array)
    kept = pc.is_valid(flat)
    lengths = np.bincount(rows.filter(kept).to_numpy(), minlength=len(array))
    return _lists(flat.filter(kept), lengths, array)


def _lists(flat: pa.Array, lengths: npt.NDArray[np.int64], like: pa.ListArray) -> pa.ChunkedArray:
    """Cuts elements into lists of the given lengths, null where `like` is."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = pc.is_null(like).combine_chunks() if isinstance(like, pa.ChunkedArray) else pc.is_null(like)
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(offsets), flat, mask=mask)])


def _timestamp(values: pa.ChunkedArray, column: Column, _: bool, warn: Warn) -> pa.ChunkedArray:
    given = _kind(values.type)
    if given == "string" and column.unit is not None:
        values, given = _numbers(values, "number"), "number"
    if given == "number":
        values = _from_epoch(values, column)
    elif given == "string":
        values = _from_text(values, column)
    elif given == "date":
        values = _zoned(values.cast(pa.timestamp("us")), column)
    elif given != "timestamp":
        raise Wrong(
            f"is {values.type}, not timestamp ({len(values)} rows); write instants, dates, numbers or text"
        )
    elif values.type.tz is None:
        values = _zoned(values, column)
    us = values.cast(pa.timestamp("us", tz="UTC"), safe=False)
    return _plausible(us, column, warn)


def _plausible(us: pa.ChunkedArray, column: Column, warn: Warn) -> pa.ChunkedArray:
    """Refuses instants that nanoseconds do not hold, and those that a wrong unit gives."""
    numbers = us.cast(pa.int64())
    outside = pc.fill_null(pc.or_(pc.less(numbers, FIRST_US), pc.greater(numbers, LAST_US)), False)
    if count := pc.sum(outside).as_py():
        inside = numbers.filter(pc.invert(outside)).drop_null()
        years = sorted({_year(n) for n in numbers.filter(outside).slice(0, 1_000).to_pylist()})[:EXAMPLES]
        named = ", ".join(f"year {year}" for year in years)
        if not column.clip or not len(inside):
            raise Wrong(
                f"lies outside of the years 1678 to 2261 in {count} rows ({named}); correct or drop them, or "
                "add `clip: true` to take the earliest or latest of the other rows"
            )
        first, last = pc.min(inside).as_py(), pc.max(inside).as_py()
        numbers = pc.if_else(pc.less(numbers, FIRST_US), first, numbers)
        numbers = pc.if_else(pc.greater(numbers, LAST_US), last, numbers)
        warn(f"is clipped in {count} rows ({named}) to the earliest or latest of the others")
    known = numbers.drop_null()
    if len(known) and max(abs(pc.min(known).as_py()), abs(pc.max(known).as_py())) < DAY_US:
        raise Wrong(
            f"lies within a day of 1970-01-01 in all {len(known)} rows, which is likely a wrong unit; write "
            "the numbers themselves and say what they count: `unit: s`, or ms"
        )
    return numbers.cast(pa.timestamp("us", tz="UTC"))


def _year(us: int) -> int:
    return 1970 + math.floor(us / (365.2425 * DAY_US))


def _zoned(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Reads instants without a zone as of the declared one; an hour that is there twice is its first."""
    if column.timezone is None:
        return values.cast(pa.timestamp(values.type.unit, tz="UTC"))
    return pc.assume_timezone(values, column.timezone, ambiguous="earliest", nonexistent="latest")


def _from_epoch(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    if column.unit is None:
        numbers = values.cast(pa.float64(), safe=False).drop_null().to_numpy()
        fits = [
            f"`unit: {unit}` makes them {_day(numbers.min() * us)} to {_day(numbers.max() * us)}"
            for unit, us in (("s", 1e6), ("ms", 1e3), ("us", 1.0), ("ns", 1e-3))
            if len(numbers) and 1e15 / 2 < numbers.max() * us < 4e15  # 1985 to 2096
        ]
        raise Wrong(
            f"is {values.type}, not timestamp ({len(values)} rows); say what the numbers count since 1970: "
            + (", ".join(fits) if fits else "`unit: s`, or ms, us, ns")
        )
    if pa.types.is_integer(values.type):
        numbers = values.cast(pa.int64())
        scale = UNITS[column.unit]
        us = pc.divide(numbers, 1_000) if scale is None else pc.multiply_checked(numbers, scale)
        return us.cast(pa.timestamp("us", tz="UTC"))
    factor = UNITS[column.unit]
    array = values.cast(pa.float64(), safe=False).to_numpy() * (1e-3 if factor is None else factor)
    is_null = ~np.isfinite(array)
    rounded = np.where(is_null, 0, np.clip(np.round(np.nan_to_num(array)), -(2.0**62), 2.0**62)).astype(
        np.int64
    )
    return pa.chunked_array([pa.array(rounded, mask=is_null)]).cast(pa.timestamp("us", tz="UTC"))


def _day(us: float) -> str:
    return f"{pd.Timestamp(int(us), unit='us'):%Y-%m-%d}"


def _from_text(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    texts = values.to_pandas()
    empty = texts.isna() | (texts.str.strip() == "")
    if column.format is not None:
        at, how = _parsed(texts, column.format, column), f"`format: {column.format!r}`"
    else:
        is_iso = texts.str.match(ISO).fillna(False)
        at, how = _parsed(texts.where(is_iso).str.replace(",", ".", regex=False), None, column), "ISO 8601"
    wrong = at.isna() & ~empty
    if wrong.any():
        sample = texts[wrong].head(1_000)
        fits = (
            [f"'{p}'" for p in FORMATS if _parsed(sample, p, column).notna().all()]
            if column.format is None
            else []
        )
        if len(fits) > 1:
            remedy = f"several patterns fit, choose: `format: {fits[0]}`, or {', or '.join(fits[1:])}"
        elif fits:
            remedy = f"add `format: {fits[0]}`"
        else:
            remedy = "correct them, or say how they are written, such as `format: '%d/%m/%Y %H:%M'`"
        raise Wrong(
            f"is text, and not {how} within the years 1678 to 2261 in {int(wrong.sum())} rows (such as "
            f"{examples(pa.chunked_array([pa.array(sample)]))}); {remedy}"
        )
    return pa.chunked_array([pa.Array.from_pandas(at)]).cast(pa.timestamp("us", tz="UTC"))


def _parsed(texts: pd.Series, pattern: str | None, column: Column) -> pd.Series:
    """Reads text as instants, NaT where it is none; each distinct text once, as logs repeat their days."""
    codes, distinct = pd.factorize(texts)
    given = pd.Series(distinct, dtype=object)
    zoned = given.str.contains(r"(?:[zZ]|[+-]\d{2}(?::?\d{2})?)\s*$", regex=True, na=False)
    if pattern is not None:
        zoned[:] = "%z" in pattern
    else:
        zoned &= given.str.contains(":", regex=False, na=False)  # 2025-03-04 ends like a zone
    at = pd.Series(pd.NaT, index=given.index, dtype="datetime64[ns, UTC]")
    try:
        if zoned.any():
            at[zoned] = pd.to_datetime(given[zoned], format=pattern, errors="coerce", utc=True)
        if not zoned.all():
            naive = pd.to_datetime(given[~zoned], format=pattern, errors="coerce")
            zone = column.timezone or "UTC"
            hour = pd.Timedelta(hours=1)
            at[~zoned] = naive.dt.tz_localize(
                zone, ambiguous=np.ones(len(naive), dtype=bool), nonexistent=hour
            ).dt.tz_convert("UTC")
    except (ValueError, re.error) as error:
        raise Wrong(
            f"cannot be read by `format: {pattern!r}`: {error}; write a pattern of strptime"
        ) from None
    filled = at.reindex(range(-1, len(at)))  # -1 stands for null
    return pd.Series(filled.loc[codes].array, index=texts.index)


_READERS: dict[Role, Callable[[pa.ChunkedArray, Column, bool, Warn], pa.ChunkedArray]] = {
    Role.ID: _id,
    Role.LABEL: _label,
    Role.LIST: _list,
    Role.EMBEDDING: lambda values, column, _, warn: read_embeddings(values, column, warn),
    Role.TIMESTAMP: _timestamp,
}
"""How each role's column is read; `_value` reads the others."""
