"""Checks a data set before anything is written: every problem names the file, the column, the row count and a
remedy.

Plain pandas and pyarrow: current pandera needs pandas 2, NVTabular needs pandas 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from contract import names
from contract.activity import Position
from contract.columns import Columns, Role
from contract.dataset import Dataset, DatasetError, SplitBy
from contract.names import NULL_INT
from training.data.convert import AS_TEXT, convert
from training.data.embeddings import width_of
from training.data.files import RawTable
from training.data.implied import with_clock, with_label
from training.data.learnable import unlearnable
from training.data.numbering import OwnTexts, with_numbers
from training.data.prepared import FILES, to_frame

_TAKE_OUT = "take its line out of dataset.yaml"
_EXACT = 2**53
"""Beyond this a float64 no longer holds every integer."""
FIRST_LOGS = pd.Timestamp("1990-01-01", tz="UTC")
"""Before this hardly anything was logged: an instant of then is rather a missing one, written as 0."""


class ProblemsError(DatasetError):
    """All that is wrong with a data set, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, eq=False)
class Checked:
    """A data set as it is to be prepared, its tables with their declared types, what is worth saying, and the
    texts of its users by their numbers, where their ids are text."""

    dataset: Dataset
    frames: dict[str, pd.DataFrame]
    warnings: list[str]
    users: Mapping[int, str]
    horizon: Mapping[int, Position] = field(default_factory=dict)
    """The last position of each stream of which the tables hold the events."""


def validate(dataset: Dataset, tables: Mapping[str, RawTable], now: datetime) -> Checked:
    """Takes the three tables as they were read; gives what is to be prepared.

    A list column that is empty in every row is left out, as there is nothing to learn from it.

    Raises:
        ProblemsError: with every problem found.
    """
    problems: list[str] = []
    warnings: list[str] = []
    frames: dict[str, pd.DataFrame] = {}
    by_table: dict[str, Columns] = {}
    typed: dict[str, pa.Table] = {}
    files = {table: raw.name or FILES[table] for table, raw in tables.items()}
    for table, columns in dataset.tables.items():
        typed[table], found, said = with_declared_types(tables[table], columns, files[table])
        warnings += tables[table].said
        if not tables[table].is_derived:  # else the interactions' column is the same, and is told of
            problems += found
            warnings += said
    typed, texts, same = with_numbers(typed)
    problems += same
    for table, columns in dataset.tables.items():
        frame = to_frame(typed[table], {name: columns[name] for name in typed[table].column_names})
        if frame.columns.size or not tables[table].is_derived:
            problems += _rows(tables[table], dataset, table, files[table])
        for name in _empty_lists(frame, columns):
            warnings.append(
                f"{files[table]}: column {name} is an empty list in all {len(frame)} rows; it is left out"
            )
            frame, columns = frame.drop(columns=name), {n: c for n, c in columns.items() if n != name}
        columns = _with_widths(columns, typed[table])
        by_table[table], frames[table] = columns, frame
        problems += _null_columns(frame, columns, files[table])
        problems += _inexact(frame, columns, files[table])
    interactions = frames["interactions"]
    if all(key in interactions for key in (names.USER_ID, names.ITEM_ID)) and not problems:
        dataset, interactions = with_clock(dataset.model_copy(update=by_table), interactions, warnings.append)
        dataset, interactions = with_label(dataset, interactions, warnings.append)
        frames["interactions"] = interactions
    if not problems or dataset.labels:
        problems += _labels(interactions, dataset, files["interactions"])
    if any(column.role is Role.TIMESTAMP for column in dataset.interactions.values()):
        problems += _timestamps(interactions, dataset, now, files["interactions"])
        warnings += _early(interactions, dataset, files["interactions"])
    for table, key in (("users", names.USER_ID), ("items", names.ITEM_ID)):
        if key in frames[table]:
            problems += _duplicates(frames[table], key, files[table], texts)
            wrong, normal = _unknown(interactions, frames[table], key, dataset, texts, files)
            problems += wrong
            warnings += normal
    problems += _clock(interactions, dataset, now, files["interactions"])
    if not problems:
        problems += unlearnable(interactions, frames["items"], dataset, files)
    if problems:
        raise ProblemsError(problems)
    if names.ITEM_ID in texts:
        own = frames["items"][names.ITEM_ID].map(texts[names.ITEM_ID])
        frames["items"] = frames["items"].assign(**{names.OWN_ITEM_ID: own})
    return Checked(dataset.stored, frames, warnings, texts.get(names.USER_ID, {}))


def with_declared_types(raw: RawTable, columns: Columns, file: str) -> tuple[pa.Table, list[str], list[str]]:
    """Takes a table, gives those of its declared columns that can be read as declared, what is wrong, and
    warnings."""
    problems: list[str] = []
    warnings: list[str] = []
    arrays: dict[str, pa.ChunkedArray] = {}
    given = raw.data.column_names
    for name, column in columns.items():
        source = column.source or name
        if source not in given:
            remedy = _found(source, column.role, given)
            problems.append(f"{file}: column {source} is missing ({raw.data.num_rows} rows); {remedy}")
            continue
        converted = convert(raw.data[source], column, f"{file}: column {source}", is_text=raw.is_text)
        problems += converted.problems
        warnings += converted.warnings
        if converted.values is None:
            continue
        wrong = list(_ids(converted.values, source, file)) if column.role is Role.ID else []
        problems += wrong
        if not wrong:
            arrays[name] = converted.values
    return pa.table(arrays), problems, warnings


def _found(source: str, role: Role, given: list[str]) -> str:
    """Says what to do about a column that the file does not have, by what it has."""
    unnamed = [column for column in given if column.startswith("__index_level_")]
    near = difflib.get_close_matches(source, given, n=1, cutoff=0.6) or unnamed[:1]
    likely = (
        f", or say which one it is: `from: {near[0]}`" if near else ", or name the file's column with `from:`"
    )
    taken_out = "" if role is Role.ID else f", {_TAKE_OUT}"
    return f"write it{taken_out}{likely} (the file has {', '.join(given[:20])})"


def _ids(values: pa.ChunkedArray, name: str, file: str) -> Iterator[str]:
    if values.null_count:
        yield f"{file}: column {name} is null in {values.null_count} rows; drop them, or give them an id"
    if pa.types.is_integer(values.type) and (reserved := pc.sum(pc.equal(values, NULL_INT)).as_py()):
        yield f"{file}: column {name} is {NULL_INT} in {reserved} rows, which stands for null; {AS_TEXT}"


def _rows(raw: RawTable, dataset: Dataset, table: str, file: str) -> Iterator[str]:
    rows, counted = raw.data.num_rows, "ids" if raw.is_derived else "rows"
    least = getattr(dataset.checks, f"min_{table}")
    if rows < least:
        key = names.ITEM_ID if table == "items" else names.USER_ID
        yield (
            f"{file}: column {key}: {rows} {counted}, at least {least} are needed; "
            f"bring more, or lower checks.min_{table} in dataset.yaml"
        )


def _null_columns(frame: pd.DataFrame, columns: Columns, file: str) -> Iterator[str]:
    for name in frame:
        column = columns[name]
        if len(frame) and frame[name].isna().all() and column.role not in (Role.ID, Role.TIMESTAMP):
            yield f"{file}: column {name} is null in all {len(frame)} rows; fill it, or {_TAKE_OUT}"


def _with_widths(columns: Columns, table: pa.Table) -> Columns:
    """Gives embeddings the length that they were found to have, if they are not to be cut."""
    found = {
        name: width_of(table[name])
        for name, column in columns.items()
        if column.role is Role.EMBEDDING and name in table.column_names
    }
    wanted = {
        n: columns[n].max_length if "max_length" in columns[n].model_fields_set else found[n] for n in found
    }
    return columns | {
        name: columns[name].model_copy(update={"max_length": max(1, min(wanted[name], found[name]))})
        for name in found
    }


def _empty_lists(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """Lists the columns of lists that hold not one element."""
    lists = [name for name in frame if columns[name].role is Role.LIST and len(frame)]
    return [name for name in lists if not (frame[name].str.len() > 0).any() and frame[name].notna().any()]


def _clock(frame: pd.DataFrame, dataset: Dataset, now: datetime, file: str) -> Iterator[str]:
    """Looks whether the declared instants lie where there are rows."""
    name = next((n for n, c in dataset.interactions.items() if c.role is Role.TIMESTAMP), "")
    if name not in frame or frame[name].notna().sum() == 0:
        return
    first, last = frame[name].min(), frame[name].max()
    span = f"{file}: column {name} goes from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    if dataset.as_of is not None and dataset.as_of <= first:
        yield f"{span}, and as_of, {dataset.as_of}, is before that; set it later, or {_takes_out('as_of')}"
    if dataset.as_of is not None and dataset.as_of > now:
        yield f"{span}, and as_of, {dataset.as_of}, is still to come; {_takes_out('as_of')}: it is now then"
    split = dataset.split
    if split is None:
        return
    for start, end, part in (
        (first, split.train_until, "train"),
        (split.train_until, split.validate_until, "validation"),
        (split.validate_until, split.test_until, "test"),
    ):
        if not ((frame[name] >= start) & (frame[name] < end)).any():
            yield f"{span}, and split leaves {part} without a row; set it within, or {_takes_out('split')}"


def _takes_out(key: str) -> str:
    return f"take {key} out of dataset.yaml"


def _inexact(frame: pd.DataFrame, columns: Columns, file: str) -> Iterator[str]:
    """Feast reads an integer column that has nulls as float64."""
    for name in frame:
        column = columns[name]
        if column.dtype != "int64" or column.is_several or not frame[name].isna().any():
            continue
        large = int((frame[name].dropna().abs() > _EXACT).sum())
        if large:
            yield (
                f"{file}: column {name} has nulls, and in {large} rows integers beyond 2^53, which would be "
                "rounded; write them as strings and set dtype: string in dataset.yaml, or renumber them"
            )


def _duplicates(frame: pd.DataFrame, key: str, file: str, texts: OwnTexts) -> Iterator[str]:
    repeated = frame[key].duplicated()
    if repeated.any():
        example = _own(frame.loc[repeated, key].iloc[0], key, texts)
        count = int(repeated.sum())
        yield f"{file}: column {key} repeats an id in {count} rows (such as {example}); keep one row per id"


def _own(number: int, key: str, texts: OwnTexts) -> object:
    """The id as the file has it."""
    return texts[key][int(number)] if key in texts else int(number)


def _labels(frame: pd.DataFrame, dataset: Dataset, file: str) -> Iterator[str]:
    for label in frame.columns.intersection(dataset.labels):
        wrong = int((~frame[label].dropna().isin((0, 1))).sum())
        if wrong:
            yield f"{file}: column {label} is neither 0, 1 nor null in {wrong} rows; a label is one of these"
    if dataset.target in frame and len(frame) and not (frame[dataset.target] == 1).any():
        yield (
            f"{file}: column {dataset.target} is 1 in none of {len(frame)} rows: nothing to learn; "
            f"check how it is made, or {_TAKE_OUT}: then what is in the log counts as chosen"
        )


def _timestamps(frame: pd.DataFrame, dataset: Dataset, now: datetime, file: str) -> Iterator[str]:
    name = dataset.timestamp
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
            "correct or drop them, or say by `unit:` or `timezone:` how it is written"
        )
    before = at.groupby(frame[names.USER_ID]).shift()
    out_of_order = int((at < before).sum())
    if out_of_order and untimed.any():  # else the rows are taken in order of time
        yield (
            f"{file}: column {name} is out of order in {out_of_order} rows, each earlier than its user's row "
            f"above, beside rows without a time; sort the file by {name}"
        )


def _early(frame: pd.DataFrame, dataset: Dataset, file: str) -> Iterator[str]:
    """Tells of instants before any log; they count, and some are likely missing ones that were written as 0,
    all of them likely of another unit."""
    at = frame.get(dataset.timestamp)
    is_early = at < FIRST_LOGS if at is not None else pd.Series(False)
    if is_early.any() and dataset.split_by is SplitBy.TIME:
        remedy = (
            "if they are later, say by `unit:` or `format:` how they are written"
            if is_early.all()
            else "correct or drop what is no time"
        )
        yield (
            f"{file}: column {dataset.timestamp} is before {FIRST_LOGS.year} in "
            f"{int(is_early.sum())} rows (from {at.min():%Y-%m-%d}); {remedy}"
        )


def _unknown(
    interactions: pd.DataFrame,
    table: pd.DataFrame,
    key: str,
    dataset: Dataset,
    texts: OwnTexts,
    files: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Users and items without a row are normal while they are few; many of them are a wrong join."""
    if key not in interactions:
        return [], []
    missing = ~interactions[key].isin(table[key])
    count, kind = int(missing.sum()), "users" if key == names.USER_ID else "items"
    if not count:
        return [], []
    example = _own(interactions.loc[missing, key].iloc[0], key, texts)
    line = (
        f"{files['interactions']}: column {key} names {kind} without a row in {files[kind]} in {count} rows "
        f"({count / len(interactions):.1%}, such as {example})"
    )
    if count <= dataset.checks.max_unknown_share * len(interactions):
        return [], [f"{line}; their features are null"]
    remedy = "add the rows, drop the interactions, or raise checks.max_unknown_share in dataset.yaml"
    return [f"{line}; {remedy}"], []


def as_table(frame: pd.DataFrame) -> RawTable:
    """Takes an adapter's frame, gives the table that `validate` takes."""
    return RawTable(pa.Table.from_pandas(frame, preserve_index=False), is_text=False)
