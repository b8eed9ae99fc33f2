"""Reads instants, as files hold them: dates, numbers since 1970, text in a pattern."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import Column
from training.data.values import EXAMPLES, Warn, Wrong, examples, kind_of, read_numbers

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
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
FIRST_S, LAST_S = 5e8, 4e9
"""Instants of logs lie between them, 1985 to 2096, in seconds since 1970. Each unit is a thousand times the
next, so a number lies between them by one unit at most."""


def read_timestamps(values: pa.ChunkedArray, column: Column, _: bool, warn: Warn) -> pa.ChunkedArray:
    """Reads instants as microseconds UTC, by the unit, pattern and zone that are declared."""
    given = kind_of(values.type)
    if given == "string" and column.unit is not None:
        values, given = read_numbers(values, "number"), "number"
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


def unit_of(number: float) -> str | None:
    """Finds the unit in which a number is an instant as logs have them, from 1985 to 2096."""
    return next((unit for unit, count in PER_SECOND.items() if FIRST_S < number / count < LAST_S), None)


def _plausible(us: pa.ChunkedArray, column: Column, warn: Warn) -> pa.ChunkedArray:
    """Refuses instants that nanoseconds do not hold, and those that a wrong unit gives."""
    numbers = us.cast(pa.int64())
    outside = pc.fill_null(pc.or_(pc.less(numbers, FIRST_US), pc.greater(numbers, LAST_US)), False)
    if count := pc.sum(outside).as_py():
        inside = numbers.filter(pc.invert(outside)).drop_null()
        years = sorted({_year(n) for n in numbers.filter(outside).slice(0, 1_000).to_pylist()})[:EXAMPLES]
        named = ", ".join(f"year {year}" for year in years)
        if not column.clip or not len(inside):
            remedy = (
                "correct or drop them, or add `clip: true` to take the earliest or latest of the other rows"
                if len(inside)
                else "correct them; where a wrong unit made them, write the numbers themselves, and say what "
                "they count: `unit: ms`, or s, us, ns"
            )
            raise Wrong(f"lies outside of the years 1678 to 2261 in {count} rows ({named}); {remedy}")
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
    numbers = _known(values)
    if column.unit is None:
        raise Wrong(
            f"is {values.type}, not timestamp ({len(values)} rows); say what the numbers count since 1970: "
            + (_by_unit(numbers) or "`unit: s`, or ms, us, ns")
        )
    _check_unit(numbers, column.unit)
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


def _known(values: pa.ChunkedArray) -> np.ndarray:
    """Gives the numbers that may be instants of a log: what is not above 0 stands for none."""
    numbers = values.cast(pa.float64(), safe=False).drop_null().to_numpy()
    known: np.ndarray = numbers[np.isfinite(numbers) & (numbers > 0)]
    return known


def _check_unit(numbers: np.ndarray, declared: str) -> None:
    """Refuses numbers of which each is an instant of a log by one other unit than the declared, by which they
    lie in the first weeks of 1970, or thousands of years ahead."""
    unit = unit_of(numbers.max()) if len(numbers) else None
    if unit in (None, declared) or unit_of(numbers.min()) != unit:
        return
    year = _year(int(numbers.max() / PER_SECOND[declared] * 10**6))
    old = "; or, where they truly are of 1970, write them as text, such as 1970-01-20T06:30:00Z"
    raise Wrong(
        f"lies in the year {year} by its unit, {declared}, in all {len(numbers)} rows that have a time: the "
        f"unit is likely wrong; write {_by_unit(numbers)}{old if year == 1970 else ''}"
    )


def _by_unit(numbers: np.ndarray) -> str:
    """Proposes the unit by which the latest of some numbers is an instant of a log; empty where none is."""
    unit = unit_of(numbers.max()) if len(numbers) else None
    if unit is None:
        return ""
    first, last = (_day(number / PER_SECOND[unit]) for number in (numbers.min(), numbers.max()))
    return f"`unit: {unit}`, which makes them {first} to {last}"


def _day(seconds: float) -> str:
    return f"{pd.Timestamp(int(seconds), unit='s'):%Y-%m-%d}"


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
        if unit := _by_unit(_numbers_in(values)):
            place = " in the place of its format" if column.format is not None else ""
            raise Wrong(
                f"is text that holds numbers ({len(values)} rows); say what they count since 1970{place}: "
                + unit
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


def _numbers_in(texts: pa.ChunkedArray) -> np.ndarray:
    """Reads texts as numbers; gives none where one of them is no number."""
    try:
        return _known(read_numbers(texts, "number"))
    except Wrong:
        return np.empty(0)


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
