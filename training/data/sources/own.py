"""Reads a folder of the user's own: three tables, as people keep them, and `dataset.yaml`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from contract.columns import Role
from contract.dataset import DATASET_FILE, Dataset, DatasetError, TableFile
from training.data.files import FileProblemError, RawTable, all_files, find_parts, read_parts
from training.data.prepared import FILES
from training.data.validate import ProblemsError

NAME = "own"


def files(folder: Path) -> list[Path]:
    """Lists `dataset.yaml` and every file of the tables, those of a folder of parts included."""
    declaration = folder / DATASET_FILE
    try:
        declared = Dataset.load(folder).files
    except DatasetError:
        declared = {}
    return [file for file in (declaration, *all_files(folder, declared)) if file.is_file()]


def read(folder: Path) -> tuple[Dataset, dict[str, RawTable]]:
    """Reads `dataset.yaml`, then as `read_tables`."""
    return read_tables(Dataset.load(folder), folder)


def read_tables(dataset: Dataset, folder: Path) -> tuple[Dataset, dict[str, RawTable]]:
    """Reads the three tables in a folder as they are.

    Users, or items, that have no file and of which only the id is declared are those of the interactions.

    Raises:
        DatasetError: a file is missing or unreadable; every one is named.
    """
    problems: list[str] = []
    tables: dict[str, RawTable] = {}
    missing: list[str] = []
    for table in FILES:
        declared = dataset.files.get(table, TableFile())
        try:
            parts = find_parts(folder, table, declared)
            if parts:
                tables[table] = read_parts(parts, table, declared)
            else:
                missing.append(table)
        except FileProblemError as error:
            problems.append(str(error))
    for table in missing:
        ids = _ids_of(table, dataset, tables.get("interactions"))
        if ids is not None:
            tables[table] = ids
        else:
            problems.append(
                f"{folder / FILES[table]}: not found (0 rows of {table}), nor {table} as CSV, Arrow, JSON "
                "lines or a folder of parts; write the table, see docs/your-data.md"
            )
    if problems:
        raise ProblemsError(problems)
    return dataset, tables


def _ids_of(table: str, dataset: Dataset, interactions: RawTable | None) -> RawTable | None:
    columns = dataset.tables[table]
    if (
        table == "interactions"
        or interactions is None
        or any(c.role is not Role.ID for c in columns.values())
    ):
        return None
    ((name, column),) = columns.items()
    source = dataset.interactions[name].source or name
    if source not in interactions.data.column_names:
        return None
    ids = interactions.data[source].unique().drop_null()
    data = pa.table({column.source or name: ids})
    return RawTable(
        data, interactions.is_text, (f"{table}: no file; its {len(ids):,} ids are those of the interactions",)
    )
