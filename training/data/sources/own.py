"""Reads a folder of the user's own: three parquet files and `dataset.yaml`. No code of theirs is needed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contract.dataset import DATASET_FILE, Dataset
from training.data.prepared import FILES
from training.data.validate import ProblemsError

NAME = "own"


def files(folder: Path) -> list[Path]:
    """Lists those of the four files that are there."""
    return [p for p in (folder / name for name in (DATASET_FILE, *FILES.values())) if p.is_file()]


def read(folder: Path) -> tuple[Dataset, dict[str, pa.Table]]:
    """Reads `dataset.yaml` and the three tables as they are.

    Raises:
        DatasetError: a file is missing or unreadable; every one is named.
    """
    dataset = Dataset.load(folder)
    problems: list[str] = []
    tables: dict[str, pa.Table] = {}
    for table, name in FILES.items():
        try:
            tables[table] = pq.read_table(folder / name)
        except FileNotFoundError:
            problems.append(
                f"{folder / name}: not found (0 rows of {table}); write the table, see docs/your-data.md"
            )
        except (OSError, pa.ArrowInvalid) as error:
            reason = str(error).splitlines()[0]
            problems.append(
                f"{folder / name}: not a parquet file (0 rows could be read: {reason}); write it again"
            )
    if problems:
        raise ProblemsError(problems)
    return dataset, tables
