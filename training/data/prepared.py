"""The prepared form of a data set: three tables and `dataset.yaml` in one folder, whatever they came from.

In memory a table is a pandas frame: ids are int64, a text's number (`contract/ids.py`), other int64 columns
`Int64` (nullable), floats float32 (null is NaN), strings objects (null is None), lists arrays or None,
timestamps UTC (null is NaT, for a row of a history).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from contract import names
from contract.activity import Position
from contract.columns import Column, Columns, Role
from contract.dataset import (
    DATASET_FILE,
    INTERACTIONS_FILE,
    ITEMS_FILE,
    USERS_FILE,
    Dataset,
    DatasetError,
    Split,
)
from contract.texts import USERS, Texts

FILES = {"users": USERS_FILE, "items": ITEMS_FILE, "interactions": INTERACTIONS_FILE}
FEW_ROWS = 10
SEVERAL = (np.ndarray, list, tuple)
"""What a list in a frame is; anything else there is null."""
ARROW_TYPES = {
    "int64": pa.int64(),
    "float32": pa.float32(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True)
class Prepared:
    """A validated data set in memory.

    Interactions are ordered: the rows of histories (no timestamp) first, per user and oldest first, then the
    timed rows by time. Users and items are in ascending order of their id, each id once.
    """

    folder: Path
    dataset: Dataset
    users: pd.DataFrame
    items: pd.DataFrame
    interactions: pd.DataFrame
    horizon: Mapping[int, Position] = field(default_factory=dict)
    """The last position of each stream of which the interactions hold the events."""

    def to_its_end(self) -> Prepared:
        """Gives the same where its last interaction lies in the parts that `dataset.yaml` divides it into;
        else, as where events came since, divided anew by time, and its features as of now."""
        last = self.interactions[self.dataset.timestamp].max()
        if self.dataset.split is None or pd.isna(last) or last < pd.Timestamp(self.dataset.split.test_until):
            return self
        dataset = self.dataset.model_copy(update={"split": None, "as_of": None})
        return replace(self, dataset=dataset)

    @property
    def split(self) -> Split:
        """What ends train, validation and test: the data set's own instants, else 80 / 10 / 10 % by time."""
        return self.dataset.split or default_split(self.interactions[self.dataset.timestamp])

    @property
    def train_until(self) -> pd.Timestamp:
        """The end of `split`'s train part, also where there are too few rows for the others; NaT of none."""
        declared = self.dataset.split
        if declared is not None:
            return pd.Timestamp(declared.train_until)
        return _ends(self.interactions[self.dataset.timestamp].dropna().sort_values(ignore_index=True))[0]


def default_split(timestamps: pd.Series) -> Split:
    """Splits at the 80th and 90th percentile of the timed rows; test ends just after the last one.

    Of fewer rows than ten, each at an instant of its own, the last is for the test and the one before it for
    validation.
    """
    known = timestamps.dropna().sort_values(ignore_index=True)
    train, validate = _ends(known)
    return Split(
        train_until=train.to_pydatetime(warn=False),
        validate_until=validate.to_pydatetime(warn=False),
        test_until=known.max().to_pydatetime(warn=False) + pd.Timedelta(seconds=1).to_pytimedelta(),
    )


def _ends(known: pd.Series) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Where train and validation end, of timestamps in order."""
    if 3 <= len(known) < FEW_ROWS and known.is_unique:
        return known.iloc[-2], known.iloc[-1]
    train, validate = (known.quantile(q, interpolation="lower") for q in (0.8, 0.9))
    return train, validate


def arrow_type(column: Column) -> pa.DataType:
    """Takes a column, gives the type it is stored with."""
    element = ARROW_TYPES[column.held]
    return pa.list_(element) if column.is_several else element


def arrow_schema(columns: Columns) -> pa.Schema:
    """Takes a table's columns, gives the schema of its parquet file."""
    return pa.schema([pa.field(name, arrow_type(column)) for name, column in columns.items()])


def prepared_schema(dataset: Dataset, table: str) -> pa.Schema:
    """The schema of a prepared table: its columns, and beside an id that is text the text itself."""
    columns = dataset.tables[table]
    schema = arrow_schema(columns)
    if table == "items" and dataset.item_id_dtype == "string":
        schema = schema.append(pa.field(names.OWN_ITEM_ID, pa.string()))
    return schema


def to_frame(table: pa.Table, columns: Columns) -> pd.DataFrame:
    """Takes a stored table, gives the frame that the module's first lines describe."""
    frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    for name, column in columns.items():
        if column.role is Role.ID:
            frame[name] = frame[name].astype("int64")
        elif column.dtype == "timestamp":
            frame[name] = frame[name].astype("datetime64[ns, UTC]")
    return frame


def to_numpy(values: pd.Series, column: Column) -> npt.NDArray[np.generic]:
    """Takes a column of a frame, gives it as the models and the serving chain see it.

    Scalars are (rows,): int64 with `NULL_INT`, float32 with NaN, strings as objects with None, booleans as
    bool (null is False). Lists are (rows, max_length): their first elements, padded with the null of the
    dtype.
    """
    if column.is_several:
        return _pad(values, column)
    if column.held == "int64":
        return np.asarray(values.astype("Int64").fillna(names.NULL_INT), dtype=np.int64)
    if column.held == "float32":
        return np.asarray(values.to_numpy(dtype=np.float32, na_value=np.nan))
    if column.held == "bool":
        return np.asarray(values.fillna(False), dtype=np.bool_)
    return np.asarray(values.astype(object).where(values.notna(), None), dtype=object)


def _pad(values: pd.Series, column: Column) -> npt.NDArray[np.generic]:
    """Takes lists or nulls, gives (rows, max_length) padded with null."""
    null, dtype = {"int64": (names.NULL_INT, np.int64), "float32": (np.nan, np.float32)}.get(
        str(column.dtype), (None, object)
    )
    padded = np.full((len(values), column.max_length), null, dtype=dtype)
    most = column.max_length
    lengths = np.array([min(len(v), most) if isinstance(v, SEVERAL) else 0 for v in values], np.int64)
    if lengths.sum():
        flat = np.concatenate(
            [np.asarray(v[:n], dtype=dtype) for v, n in zip(values, lengths, strict=True) if n]
        )
        row = np.repeat(np.arange(len(values)), lengths)
        position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        padded[row, position] = flat
    return padded


def load_prepared(folder: Path) -> Prepared:
    """Reads a prepared data set, such as `var/data/kuairand`.

    Raises:
        DatasetError: `dataset.yaml` or a table is missing or does not fit.
    """
    dataset = Dataset.load(folder)
    frames = {}
    for table, columns in dataset.tables.items():
        file = folder / FILES[table]
        if not file.is_file():
            raise DatasetError(f"{file}: not found; prepare the data set again (`make data`)")
        frames[table] = to_frame(pq.read_table(file, schema=prepared_schema(dataset, table)), columns)
    file = folder / HORIZON_FILE
    content = json.loads(file.read_text()) if file.is_file() else {}
    horizon = {int(partition): (ms, number) for partition, (ms, number) in content.items()}
    return Prepared(folder=folder, dataset=dataset, **frames, horizon=horizon)


def in_order(frames: Mapping[str, pd.DataFrame], dataset: Dataset) -> dict[str, pd.DataFrame]:
    """Takes the three tables, gives them in the order that `Prepared` promises."""
    interactions, clock = frames["interactions"], dataset.timestamp
    timed = interactions[clock].notna()
    history = interactions[~timed].sort_values(names.USER_ID, kind="stable")
    rest = interactions[timed].sort_values([clock, names.USER_ID, names.ITEM_ID], kind="stable")
    return {
        "users": frames["users"].sort_values(names.USER_ID, ignore_index=True),
        "items": frames["items"].sort_values(names.ITEM_ID, ignore_index=True),
        "interactions": pd.concat([history, rest], ignore_index=True),
    }


def write_prepared(
    folder: Path,
    dataset: Dataset,
    frames: Mapping[str, pd.DataFrame],
    stamp: Mapping[str, str],
    users: Mapping[int, str] | None = None,
    horizon: Mapping[int, Position] | None = None,
) -> None:
    """Writes the three tables, `dataset.yaml`, the texts of users by their numbers where they have any, up to
    where they hold events of streams, and the stamp of what they were made from: the folder whole or not at
    all.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for table, file in FILES.items():
            rows = to_table(frames[table], prepared_schema(dataset, table))
            pq.write_table(rows, temporary / file, compression="zstd")
        if users:
            Texts.write(temporary, USERS, np.sort([*users]), [users[number] for number in sorted(users)])
        (temporary / DATASET_FILE).write_text(dataset_yaml(dataset), "utf-8")
        if horizon:
            (temporary / HORIZON_FILE).write_text(json.dumps(dict(horizon)) + "\n")
        (temporary / STAMP_FILE).write_text(json.dumps(dict(stamp), indent=1) + "\n")
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def to_arrow(frame: pd.DataFrame, columns: Columns) -> pa.Table:
    """Takes a frame, gives its declared columns with their stored types."""
    return to_table(frame, arrow_schema(columns))


def to_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Takes a frame, gives the columns of a schema."""
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)


def dataset_yaml(dataset: Dataset) -> str:
    """Writes a data set as YAML that `Dataset.load` reads back equal; defaults are left out."""
    raw = dataset.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


STAMP_FILE = "prepared.json"
HORIZON_FILE = "horizon.json"


def read_stamp(folder: Path) -> dict[str, str]:
    """Reads what a prepared folder was made from; empty where there is none."""
    try:
        stamp: dict[str, str] = json.loads((folder / STAMP_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return stamp


def fingerprint(files: list[Path], *texts: str) -> str:
    """Takes files and texts, gives a hash that changes when a file is written again or a text differs."""
    digest = hashlib.sha256()
    for file in sorted(files):
        status = file.stat()
        digest.update(f"{file.name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    for text in texts:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()


def replace_folder(new: Path, old: Path) -> None:
    """Puts the folder `new` in the place of `old`; a reader finds one or the other, never half of one."""
    retired = old.with_name(f".{old.name}.{os.getpid()}.old")
    shutil.rmtree(retired, ignore_errors=True)
    if old.exists():
        old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)


def now() -> datetime:
    """The present, UTC."""
    return datetime.now(UTC)
