"""The archive of events: Parquet files by hour of acceptance, under `live/{dataset}/events` of the run-time
folder.

A file holds entries of one stream, or of a whole hour. After a crash two files may hold the same event, so
whoever reads counts each once, by its user and `event_id`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contract import names
from contract.activity import Position
from contract.dataset import Dataset
from contract.events import Event, partition_of
from contract.ids import number_of
from contract.live_files import live_folder, read_files

EVENT_ID, REQUEST_ID, ACCEPTED_AT = "event_id", "request_id", "accepted_at"
ENTRY_NUMBER = "entry_number"
"""With `ACCEPTED_AT` the id of the entry of its stream."""
TIME = pa.timestamp("us", tz="UTC")


def events_folder(var: Path, dataset: str) -> Path:
    """Where the archive of a data set's events lies."""
    return live_folder(var, dataset) / "events"


def hour_of(ms: int) -> str:
    """Names the folder of an hour, UTC, by an instant in it, Unix time in milliseconds."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H}"


def event_schema(dataset: Dataset) -> pa.Schema:
    """The columns of a file: own ids, the columns that `dataset.yaml` declares of interactions, and what else
    is known of an event."""
    own = {"int64": pa.int64(), "string": pa.string()}
    fields = [
        (EVENT_ID, pa.string()),
        (names.USER_ID, own[dataset.user_id_dtype]),
        (names.ITEM_ID, own[dataset.item_id_dtype]),
        (dataset.timestamp, TIME),
        *((name, pa.int64()) for name in (*dataset.labels, *dataset.context)),
        (REQUEST_ID, pa.string()),
        (ACCEPTED_AT, TIME),
        (ENTRY_NUMBER, pa.int64()),
    ]
    return pa.schema(fields)


def event_table(dataset: Dataset, events: Sequence[Event], positions: Sequence[Position]) -> pa.Table:
    """Takes events, and where each stood in its stream; gives the rows of the archive."""
    columns: dict[str, list[object]] = {
        EVENT_ID: [event.event_id for event in events],
        names.USER_ID: [event.user_id for event in events],
        names.ITEM_ID: [event.item_id for event in events],
        dataset.timestamp: [event.at_us for event in events],
        **{name: [event.labels.get(name) for event in events] for name in dataset.labels},
        **{name: [event.context.get(name) for event in events] for name in dataset.context},
        REQUEST_ID: [event.request_id for event in events],
        ACCEPTED_AT: [ms * 1000 for ms, _ in positions],
        ENTRY_NUMBER: [number for _, number in positions],
    }
    schema = event_schema(dataset)
    return pa.table([pa.array(columns[one.name], one.type) for one in schema], schema=schema)


def archive_files(folder: Path) -> list[Path]:
    """Lists the files of an archive, oldest hour first; none where there is no archive."""
    return sorted(folder.glob("*/*.parquet"))


def archive_tables(folder: Path, first: str = "") -> list[pa.Table]:
    """Reads the files of an archive from an hour on, that of `hour_of`, oldest hour first."""

    def listed() -> list[Path]:
        return [path for path in archive_files(folder) if path.parent.name >= first]

    return read_files(listed, lambda path: pq.read_table(path, partitioning=None))


def tables_of_user(folder: Path, user_id: int) -> list[pa.Table]:
    """Reads the rows of one user, by number, of each file of an archive that has some: of the others that
    column alone."""

    def read(path: Path) -> pa.Table | None:
        column = pq.read_table(path, columns=[names.USER_ID], partitioning=None)[names.USER_ID]
        mine: list[object] = [user_id]
        if pa.types.is_string(column.type):
            mine = [own for own in column.unique().to_pylist() if number_of(own, "string") == user_id]
        if not pc.any(pc.is_in(column, pa.array(mine, column.type))).as_py():
            return None
        return pq.read_table(path, filters=pc.field(names.USER_ID).isin(mine), partitioning=None)

    return [table for table in read_files(lambda: archive_files(folder), read) if table is not None]


def read_archive(folder: Path, user_id: int | None = None) -> pa.Table | None:
    """Reads an archive of events, all of it or what one user did, each event once; None where there is
    nothing. Columns that some files lack are null there."""
    tables = archive_tables(folder) if user_id is None else tables_of_user(folder, user_id)
    return once(pa.concat_tables(tables, promote_options="default")) if tables else None


def horizon_of(dataset: Dataset, table: pa.Table) -> dict[int, Position]:
    """Gives the last position of each stream that rows of the archive reach."""
    users = [number_of(own, dataset.user_id_dtype) for own in table[names.USER_ID].to_pylist()]
    horizon: dict[int, Position] = {}
    numbers = table[ENTRY_NUMBER].to_pylist() if ENTRY_NUMBER in table.column_names else [0] * len(table)
    for user, at, number in zip(users, table[ACCEPTED_AT].to_pylist(), numbers, strict=True):
        partition, position = partition_of(user), (_micros(at) // 1000, number or 0)
        horizon[partition] = max(horizon.get(partition, position), position)
    return horizon


def once(table: pa.Table) -> pa.Table:
    """Leaves each event out that stands further up already."""
    keys = [names.USER_ID, EVENT_ID]
    numbered = table.select(keys).append_column("row", pa.array(np.arange(len(table))))
    first = numbered.group_by(keys).aggregate([("row", "min")])["row_min"].to_numpy()
    return table if len(first) == len(table) else table.take(np.sort(first))


def archived_events(folder: Path, dataset: Dataset, after: Position) -> Iterator[tuple[Event, Position]]:
    """Gives what the archive holds of the hour of a position on, file by file; an event may come twice."""
    for table in archive_tables(folder, hour_of(after[0])):
        for row in table.to_pylist():
            accepted_ms = _micros(row[ACCEPTED_AT]) // 1000
            event = Event(
                event_id=row[EVENT_ID],
                user_id=row[names.USER_ID],
                item_id=row[names.ITEM_ID],
                at_us=_micros(row[dataset.timestamp]),
                labels={n: row[n] for n in dataset.labels if row.get(n) is not None},
                context={n: row[n] for n in dataset.context if row.get(n) is not None},
                request_id=row[REQUEST_ID],
            )
            yield event, (accepted_ms, row.get(ENTRY_NUMBER) or 0)


def _micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
