"""Fits and runs the workflow on synthetic rows that are larger than the memory it may use.

`python -m bench.out_of_core [--rows 6000000] [--limit-mib 512]`, in the training environment. Rows
are written and read by partition; the process sets its limit before it fits, and the kernel enforces it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import nvtabular as nvt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.memory import MIB, limit_mib, status_mib
from contract.columns import Column, Role
from contract.dataset import Dataset
from training.data.raw import all_columns, raw_arrays
from training.examples.workflow import fit_workflow, workflow_rows

BLOCK = 50_000
DATASET = Dataset.model_validate(
    {
        "name": "large",
        "users": {
            "user_id": {"role": "id"},
            "user_city": {"role": "categorical", "dtype": "string"},
            "user_income": {"role": "numeric"},
        },
        "items": {
            "item_id": {"role": "id", "vocabulary": 50_000},
            "item_tags": {"role": "list", "max_length": 6},
            "item_price": {"role": "numeric", "is_log": True},
        },
        "interactions": {
            "user_id": {"role": "id"},
            "item_id": {"role": "id"},
            "timestamp": {"role": "timestamp"},
            "is_click": {"role": "label"},
            "context_tab": {"role": "context"},
        },
        "activity": {"recent_items": 5},
    }
)


def blocks(rows: int) -> Iterator[pd.DataFrame]:
    """Draws the rows, one block at a time."""
    rng = np.random.default_rng(0)
    cities = np.array([f"city {i}" for i in range(500)], dtype=object)
    for start in range(0, rows, BLOCK):
        n = min(BLOCK, rows - start)
        sizes = rng.integers(0, 7, n)
        tags = np.split(rng.integers(0, 300, sizes.sum()), np.cumsum(sizes)[:-1])
        tab = pd.Series(rng.integers(0, 8, n), dtype="Int64").mask(rng.random(n) < 0.5)
        yield pd.DataFrame(
            {
                "user_id": 2**60 + (rng.pareto(1.2, n) * 2_000).astype(int) % 200_000,
                "user_city": cities[rng.integers(0, 500, n)],
                "user_income": np.where(rng.random(n) < 0.1, np.nan, rng.normal(3_000, 800, n)),
                "item_id": (rng.pareto(1.2, n) * 1_000).astype(np.int64) % 100_000,
                "item_tags": tags,
                "item_price": rng.lognormal(3, 1, n),
                "context_tab": tab,
            }
        )


def write(path: Path, rows: int) -> int:
    """Writes the rows as parquet, a row group per block; gives their size as pandas holds them, in bytes."""
    columns, size, writer = all_columns(DATASET), 0, None
    for block in blocks(rows):
        frame = workflow_rows(block, columns)
        lists = frame["item_tags"].map(lambda tags: tags.nbytes).sum()
        size += int(frame.memory_usage(deep=True).sum() + lists)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return size


def read(path: Path) -> nvt.Dataset:
    """Opens the rows: a Dask partition per row group, read when its turn comes.

    Merlin's own reader turns nullable integers into plain ones, and fails on null.
    """
    some = partial(_row_group, path)
    groups = range(pq.ParquetFile(path).num_row_groups)
    return nvt.Dataset(dd.from_map(some, groups, meta=some(0).iloc[:0]), cpu=True)


def _row_group(path: Path, group: int) -> pd.DataFrame:
    columns = all_columns(DATASET)
    table = pq.ParquetFile(path).read_row_group(group, columns=[*columns])
    return workflow_rows(table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get), columns)


def _stored(column: Column) -> pa.DataType:
    if column.role is Role.LIST:
        return pa.list_(pa.int64())
    return pa.float32() if column.role is Role.NUMERIC else pa.int64()


def main() -> int:
    """Runs once and says what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--limit-mib", type=int, default=512, help="memory beyond what the libraries take")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shortlist-") as folder:
        path = Path(folder) / "rows.parquet"
        size = write(path, chosen.rows)
        before = status_mib("VmHWM")
        limit_mib(chosen.limit_mib)
        started = time.perf_counter()
        rows = read(path)
        fitted = fit_workflow(DATASET, rows, Path(folder) / "vocabulary")
        fit_s = time.perf_counter() - started
        encoded = fitted.transform(rows).to_ddf()
        # Stated: a partition whose lists are all empty would have another schema.
        encoded.to_parquet(
            Path(folder) / "encoded",
            schema=pa.schema([(name, _stored(column)) for name, column in fitted.columns.items()]),
            write_index=False,
            compute_kwargs={"scheduler": "synchronous"},
        )
        transform_s = time.perf_counter() - started - fit_s
        sample = next(blocks(chosen.rows)).head(1_000)
        coded = fitted.encoders().encode_all(raw_arrays(sample, fitted.columns))
        stored = pd.read_parquet(Path(folder) / "encoded" / "part.0.parquet")
        same = all(
            np.array_equal(np.stack(stored[n][:1000]) if v.ndim == 2 else stored[n][:1000].to_numpy(), v)
            for n, v in coded.items()
        )
    sys.stdout.write(
        f"{chosen.rows:,} rows in {rows.npartitions} partitions, {size / MIB:,.0f} MiB as pandas holds them; "
        f"limit {chosen.limit_mib} MiB beyond the {before:,.0f} MiB of libraries and writing\n"
        f"fit {fit_s:.0f} s, transform and write {transform_s:.0f} s, "
        f"peak {status_mib('VmHWM') - before:+,.0f} MiB; encoders equal the written rows: {same}\n"
    )
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
