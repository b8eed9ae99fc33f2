"""Reads a folder of the user's own: three tables, as people keep them, and `dataset.yaml`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from contract.columns import Role
from contract.dataset import DATASET_FILE, Dataset, DatasetError, TableFile
from training.data.files import FileProblemError, RawTable, all_files, find_parts, read_parts, table_files
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
                name = declared.path or parts[0].relative_to(folder).parts[0]
                tables[table] = replace(read_parts(parts, table, declared), name=name)
            else:
                missing.append(table)
        except FileProblemError as error:
            problems.append(str(error))
    for table in missing:
        if not _has_ids_alone(table, dataset):
            problems.append(_not_found(table, dataset, folder))
        elif "interactions" in tables:  # else what is wrong is told of them
            tables[table] = _ids_of(table, dataset, tables["interactions"])
    if problems:
        raise ProblemsError(problems)
    return dataset, tables


def _has_ids_alone(table: str, dataset: Dataset) -> bool:
    """Whether a table needs no file: users or items of which only the id is declared."""
    return table != "interactions" and all(c.role is Role.ID for c in dataset.tables[table].values())


def _not_found(table: str, dataset: Dataset, folder: Path) -> str:
    taken = {file.path for file in dataset.files.values()}
    others = [
        f.name for f in table_files(folder) if f.name not in taken and f.name.split(".")[0] not in FILES
    ]
    named = f", or name its file with files.{table}.path (there is {', '.join(others[:5])})" if others else ""
    return (
        f"{folder / FILES[table]}: not found (0 rows of {table}), nor {table} as CSV, Arrow, JSON lines or a "
        f"folder of parts; write the table{named}, see docs/your-data.md"
    )


def _ids_of(table: str, dataset: Dataset, interactions: RawTable) -> RawTable:
    """Gives the ids that the interactions have; none where they lack the column, which is told of them."""
    ((name, column),) = dataset.tables[table].items()
    source = dataset.interactions[name].source or name
    if source not in interactions.data.column_names:
        return RawTable(pa.table({}), interactions.is_text, name=interactions.name, is_derived=True)
    ids = interactions.data[source].unique().drop_null()
    said = f"{table}: no file; its {len(ids):,} ids are those of the interactions"
    data = pa.table({column.source or name: ids})
    return RawTable(data, interactions.is_text, (said,), interactions.name, is_derived=True)
