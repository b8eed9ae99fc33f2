"""What every reader of a column's values shares: how it says what is wrong, and how far numbers go."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from contract.columns import Column
from contract.items import MOST

EXAMPLES = 3

Warn = Callable[[str], None]


class Wrong(Exception):
    """What is wrong with a column, and after a semicolon the remedy."""


def too_large(count: int, example: float, most: float = MOST) -> Wrong:
    """Says that so many rows hold a number beyond the largest."""
    return Wrong(
        f"is beyond the range of float32 in {count} rows (such as {example:g}; models take up to {most:g}); "
        "correct them, or add `clip: true` to take the nearest number that fits"
    )


def no_separator(values: pa.ChunkedArray, wanted: str) -> Wrong:
    """Says that a text must be told how it is cut into elements, by what is likely."""
    texts = values.drop_null().slice(0, 1_000).to_pylist()
    counts = {mark: sum(mark in text for text in texts) for mark in "|;,/ "}
    mark = max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else "|"
    return Wrong(
        f"is {values.type}, not {wanted} ({len(values)} rows); say what stands between two elements: "
        f'`separator: "{mark}"`'
    )


def examples(values: pa.ChunkedArray) -> str:
    """Names a few of a column's values."""
    found = list(dict.fromkeys(values.drop_null().slice(0, 10_000).to_pylist()))[:EXAMPLES]
    return ", ".join(str(value)[:40] for value in found)


def positives(values: pa.ChunkedArray) -> str:
    """Writes the key that makes a label of a column's first values, of half of those that it holds."""
    found = list(dict.fromkeys(values.drop_null().slice(0, 10_000).to_pylist()))[: 2 * EXAMPLES]
    plain = [v if isinstance(v, str | bool | int | float) else float(v) for v in found]
    return as_yaml({"positive": plain[: max(1, len(plain) // 2)]}).strip("{}")


def as_yaml(value: object) -> str:
    """Writes a value on one line of YAML."""
    written: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return written.strip()


def said(column: Column) -> str:
    """Says what a column is declared to hold."""
    return f"a list of {column.dtype}" if column.is_several else str(column.dtype)


def kind_of(given: pa.DataType) -> str:
    """Names the kind of a type in the words that declarations use, whatever its width."""
    if pa.types.is_list(given):
        return f"list of {kind_of(given.value_type)}"
    if pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given):
        return "number"
    if pa.types.is_string(given):
        return "string"
    if pa.types.is_boolean(given):
        return "bool"
    if pa.types.is_date(given):
        return "date"
    return "timestamp" if pa.types.is_timestamp(given) else str(given)


def read_numbers(texts: pa.ChunkedArray, wanted: str, remedy: str = "") -> pa.ChunkedArray:
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
