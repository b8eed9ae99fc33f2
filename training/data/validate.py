"""Checks a data set before anything is written: every problem names the file, the column, the row count and a
remedy.

Plain pandas and pyarrow: current pandera needs pandas 2, NVTabular needs pandas 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import pandas as pd
import pyarrow as pa

from contract import names
from contract.dataset import Column, Columns, Dataset, DatasetError, Role
from training.data.prepared import FILES, arrow_type, tables_of, to_frame

_TAKE_OUT = "take its line out of dataset.yaml"
_EXACT = 2**53
"""Beyond this a float64 no longer holds every integer."""


class ProblemsError(DatasetError):
    """All that is wrong with a data set, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def validate(
    dataset: Dataset, tables: Mapping[str, pa.Table], now: datetime
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Takes the three tables as they were read, gives them with their declared types, and warnings.

    Raises:
        ProblemsError: with every problem found.
    """
    problems: list[str] = []
    warnings: list[str] = []
    frames: dict[str, pd.DataFrame] = {}
    for table, columns in tables_of(dataset).items():
        typed, found = with_declared_types(tables[table], columns, FILES[table])
        frame = to_frame(typed, {name: columns[name] for name in typed.column_names})
        frames[table] = frame
        problems += found
        problems += _rows(tables[table].num_rows, dataset, table)
        problems += _null_columns(frame, columns, FILES[table])
        problems += _inexact(frame, columns, FILES[table])
    interactions = frames["interactions"]
    problems += _labels(interactions, dataset)
    problems += _timestamps(interactions, dataset, now)
    for table, key in (("users", names.USER_ID), ("items", names.ITEM_ID)):
        if key in frames[table]:
            problems += _duplicates(frames[table], key, FILES[table])
            wrong, normal = _unknown(interactions, frames[table], key, dataset)
            problems += wrong
            warnings += normal
    if problems:
        raise ProblemsError(problems)
    return frames, warnings


def with_declared_types(table: pa.Table, columns: Columns, file: str) -> tuple[pa.Table, list[str]]:
    """Takes a table, gives those of its declared columns that can be cast without loss, and what is wrong."""
    problems: list[str] = []
    arrays: dict[str, pa.ChunkedArray] = {}
    for name, column in columns.items():
        if name not in table.column_names:
            problems.append(
                f"{file}: column {name} is missing ({table.num_rows} rows); write it, or {_TAKE_OUT}"
            )
            continue
        try:
            values = _cast(table[name], arrow_type(column))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            reason = str(error).splitlines()[0]
            problems.append(
                f"{file}: column {name} is {table[name].type}, not {_said(column)} ({table.num_rows} rows: "
                f"{reason}); convert it, or change its dtype in dataset.yaml"
            )
            continue
        wrong = list(_ids(values, name, file)) if column.role is Role.ID else []
        problems += wrong
        if not wrong:
            arrays[name] = values
    return pa.table(arrays), problems


def _cast(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """Casts whole floats to int64, numbers to float32 and booleans to 0 or 1; never text to numbers."""
    given = values.type
    if pa.types.is_dictionary(given):
        values, given = values.cast(given.value_type), given.value_type
    if pa.types.is_null(given):
        return pa.chunked_array([pa.nulls(len(values), wanted)])
    if _kind(given) == "list of null" and pa.types.is_list(wanted):
        return values.cast(wanted)
    if _kind(given) != _kind(wanted) and not (_kind(given) == "bool" and _kind(wanted) == "number"):
        raise pa.ArrowTypeError(f"{given} is another kind of value")
    if pa.types.is_timestamp(wanted) and given.tz is None:
        values = values.cast(pa.timestamp(given.unit)).cast(pa.timestamp(given.unit, tz="UTC"))
    # float64 to float32 and nanoseconds to microseconds round; an int64 must keep its value.
    return values.cast(wanted, safe=_kind(wanted) != "timestamp" and not _is_float(wanted))


def _kind(given: pa.DataType) -> str:
    if pa.types.is_list(given) or pa.types.is_large_list(given) or pa.types.is_fixed_size_list(given):
        return f"list of {_kind(given.value_type)}"
    if pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given):
        return "number"
    if pa.types.is_string(given) or pa.types.is_large_string(given):
        return "string"
    if pa.types.is_boolean(given):
        return "bool"
    return "timestamp" if pa.types.is_timestamp(given) else str(given)


def _is_float(given: pa.DataType) -> bool:
    return bool(pa.types.is_floating(given.value_type if pa.types.is_list(given) else given))


def _said(column: Column) -> str:
    return f"a list of {column.dtype}" if column.role is Role.LIST else str(column.dtype)


def _ids(values: pa.ChunkedArray, name: str, file: str) -> Iterator[str]:
    if values.null_count:
        yield f"{file}: column {name} is null in {values.null_count} rows; drop them, or give them an id"
    negative = int((values.drop_null().to_numpy() < 0).sum())
    if negative:
        yield f"{file}: column {name} is negative in {negative} rows; ids are int64 from 0"


def _rows(rows: int, dataset: Dataset, table: str) -> Iterator[str]:
    least = getattr(dataset.checks, f"min_{table}")
    if rows < least:
        key = names.ITEM_ID if table == "items" else names.USER_ID
        yield (
            f"{FILES[table]}: column {key}: {rows} rows, at least {least} are needed; "
            f"bring more, or lower checks.min_{table} in dataset.yaml"
        )


def _null_columns(frame: pd.DataFrame, columns: Columns, file: str) -> Iterator[str]:
    for name in frame:
        column, is_null = columns[name], frame[name].isna()
        if column.role is Role.LIST:
            is_null |= frame[name].str.len() == 0
        if len(frame) and is_null.all() and column.role is not Role.ID:
            yield f"{file}: column {name} is null in all {len(frame)} rows; fill it, or {_TAKE_OUT}"


def _inexact(frame: pd.DataFrame, columns: Columns, file: str) -> Iterator[str]:
    """Feast reads an integer column that has nulls as float64."""
    for name in frame:
        column = columns[name]
        if column.dtype != "int64" or column.role is Role.LIST or not frame[name].isna().any():
            continue
        large = int((frame[name].dropna().abs() > _EXACT).sum())
        if large:
            yield (
                f"{file}: column {name} has nulls, and in {large} rows integers beyond 2^53, which would be "
                "rounded; write them as strings and set dtype: string in dataset.yaml, or renumber them"
            )


def _duplicates(frame: pd.DataFrame, key: str, file: str) -> Iterator[str]:
    repeated = frame[key].duplicated()
    if repeated.any():
        example = int(frame.loc[repeated, key].iloc[0])
        count = int(repeated.sum())
        yield f"{file}: column {key} repeats an id in {count} rows (such as {example}); keep one row per id"


def _labels(frame: pd.DataFrame, dataset: Dataset) -> Iterator[str]:
    file = FILES["interactions"]
    for label in frame.columns.intersection(dataset.labels):
        wrong = int((~frame[label].dropna().isin((0, 1))).sum())
        if wrong:
            yield f"{file}: column {label} is neither 0, 1 nor null in {wrong} rows; a label is one of these"
    if dataset.target in frame and len(frame) and not (frame[dataset.target] == 1).any():
        yield (
            f"{file}: column {dataset.target} is 1 in none of {len(frame)} rows: nothing to learn; "
            "check how it is made, or name another label in dataset.yaml"
        )


def _timestamps(frame: pd.DataFrame, dataset: Dataset, now: datetime) -> Iterator[str]:
    file, name = FILES["interactions"], dataset.timestamp
    if name not in frame or names.USER_ID not in frame:
        return
    at = frame[name]
    untimed = at.isna()
    if untimed.any() and dataset.history_until is None:
        yield (
            f"{file}: column {name} is null in {int(untimed.sum())} rows; fill it, or set history_until in "
            "dataset.yaml to the instant before which they happened"
        )
    if dataset.history_until is not None:
        early = int(
            (at < dataset.history_until)[frame[names.USER_ID].isin(frame.loc[untimed, names.USER_ID])].sum()
        )
        if early:
            yield (
                f"{file}: column {name} is before history_until ({dataset.history_until}) in {early} rows of "
                "users who have rows without a timestamp; set history_until to the earliest timestamp"
            )
    late = int((at > now).sum())
    if late:
        yield (
            f"{file}: column {name} is in the future in {late} rows (up to {at.max()}); "
            "check its unit and its time zone"
        )
    before = at.groupby(frame[names.USER_ID]).shift()
    out_of_order = int((at < before).sum())
    if out_of_order:
        yield (
            f"{file}: column {name} is out of order in {out_of_order} rows, each earlier than its user's row "
            f"above; sort the file by {name}"
        )


def _unknown(
    interactions: pd.DataFrame, table: pd.DataFrame, key: str, dataset: Dataset
) -> tuple[list[str], list[str]]:
    """Users and items without a row are normal while they are few; many of them are a wrong join."""
    if key not in interactions:
        return [], []
    missing = ~interactions[key].isin(table[key])
    count, kind = int(missing.sum()), "users" if key == names.USER_ID else "items"
    if not count:
        return [], []
    example = int(interactions.loc[missing, key].iloc[0])
    line = (
        f"{FILES['interactions']}: column {key} names {kind} without a row in {FILES[kind]} in {count} rows "
        f"({count / len(interactions):.1%}, such as {example})"
    )
    if count <= dataset.checks.max_unknown_share * len(interactions):
        return [], [f"{line}; their features are null"]
    remedy = "add the rows, drop the interactions, or raise checks.max_unknown_share in dataset.yaml"
    return [f"{line}; {remedy}"], []


def as_table(frame: pd.DataFrame) -> pa.Table:
    """Takes an adapter's frame, gives the table that `validate` takes."""
    return pa.Table.from_pandas(frame, preserve_index=False)
