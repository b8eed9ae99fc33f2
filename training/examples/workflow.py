"""The NVTabular workflow of a data set: built from its columns, fitted on train, read out as plain lookups.

Every transform is made here: a new kind is one function, and its twin in `contract/encoders.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular as nvt
import pandas as pd
from merlin.core.dispatch import is_list_dtype, list_val_dtype
from merlin.dag.executors import LocalExecutor
from merlin.schema import ColumnSchema, Schema
from nvtabular import ops

from contract import names
from contract.arrays import Array
from contract.columns import Column, Columns, Role
from contract.dataset import Dataset
from contract.encoders import NULL_CODE, OOV_CODE, PAD_CODE, Centre, Encoders, Field, Scale, Vocabulary
from training.data.raw import all_columns
from training.examples.safe_names import safe_name, with_safe_names

SHARED = {
    names.USER_RECENT_ITEM_IDS: names.ITEM_ID,
    names.USER_RECENT_POSITIVE_ITEM_IDS: names.ITEM_ID,
}
"""Lists that have the vocabulary, and so the embedding table, of another column."""


class Categorify(ops.Categorify):
    """NVTabular's Categorify, without three faults of 23.8.

    It raises on a partition whose column is all null, it codes nulls by index label instead of position, and
    it writes a null list's code into another row. Here null is 1, unknown 2, a null list an empty one.
    """

    def fit_finalize(self, categories: Mapping[str, str]) -> None:
        """Keeps the vocabulary files; a column without a value has none."""
        found = {name: path if Path(path).exists() else None for name, path in categories.items()}
        super().fit_finalize(found)

    def transform(self, col_selector: nvt.ColumnSelector, df: pd.DataFrame) -> pd.DataFrame:
        """Gives the codes of every selected column."""
        coded = {name: self._codes(df[name].reset_index(drop=True)) for name in col_selector.names}
        return pd.DataFrame(coded).set_index(df.index)

    def _codes(self, column: pd.Series) -> pd.Series:
        is_list = column.dtype == object and any(np.ndim(value) for value in column)
        if is_list:
            column = column.map(lambda value: value if np.ndim(value) else [])
            is_known = column.map(len).gt(0)
        else:
            is_known = column.notna()
        if is_known.any() and self.categories[self.storage_name.get(column.name, column.name)]:
            selector = nvt.ColumnSelector([column.name])
            return super().transform(selector, column.to_frame())[column.name]
        if is_list:
            return column.map(lambda value: [OOV_CODE] * len(value))
        return pd.Series(np.where(is_known, OOV_CODE, NULL_CODE))


class Executor(LocalExecutor):
    """Merlin's executor; 23.8 raises where a partition's lists are all empty, here the schema stands."""

    def _build_schema_from_data(
        self, output_data: pd.DataFrame, col_name: str, output_col_schema: ColumnSchema
    ) -> ColumnSchema:
        column = output_data[col_name]
        if is_list_dtype(column) and list_val_dtype(column) is None:
            return output_col_schema
        return super()._build_schema_from_data(output_data, col_name, output_col_schema)


class PadLists(ops.Operator):
    """Cuts or pads lists of codes at their end; NVTabular's ListSlice drops the padding in 23.8."""

    def __init__(self, lengths: Mapping[str, int]) -> None:
        super().__init__()
        self.lengths = dict(lengths)

    def transform(self, col_selector: nvt.ColumnSelector, df: pd.DataFrame) -> pd.DataFrame:
        """Gives the selected columns; those without a length pass."""
        return df[col_selector.names].assign(
            **{n: list(_dense(df[n], self.lengths[n])) for n in col_selector.names if n in self.lengths}
        )

    def _compute_shape(self, col_schema: ColumnSchema, input_schema: Schema) -> ColumnSchema:
        length = self.lengths.get(col_schema.name)
        shaped = super()._compute_shape(col_schema, input_schema)
        return shaped if length is None else shaped.with_shape((None, length))


def _dense(lists: pd.Series, length: int) -> Array:
    sizes = np.fromiter(map(len, lists), np.int64, len(lists))
    dense = np.full((len(lists), max(length, int(sizes.max(initial=0)))), PAD_CODE, dtype=np.int64)
    if sizes.any():
        dense[np.arange(dense.shape[1]) < sizes[:, None]] = np.concatenate(lists.to_list())
    return dense[:, :length]


def known(column: pd.Series) -> pd.Series:
    """Takes a numeric, gives float32 with null where it is infinite."""
    numbers = column.astype(np.float32)
    return numbers.where(np.isfinite(numbers))


def log1p(column: pd.Series) -> pd.Series:
    """Takes a numeric, gives log(1+x), null where that does not exist."""
    return np.log(column.where(column > -1) + np.float32(1))


@dataclass(frozen=True, eq=False)
class FittedWorkflow:
    """A workflow fitted on train, and the columns it was built from."""

    workflow: nvt.Workflow
    columns: Columns
    categorify: Categorify
    normalize: ops.Normalize

    def transform(self, rows: nvt.Dataset) -> nvt.Dataset:
        """Encodes a table, lazily, partition by partition: lists padded, every column dense."""
        return self.workflow.transform(rows)

    def encoders(self) -> Encoders:
        """Reads the tables out of the workflow, by running it once on every known value, null and an unknown.

        Raises:
            RuntimeError: NVTabular does not code null and unknown values as this project expects.
        """
        vocabularies = self._vocabularies()
        moments = self.normalize
        scales = {
            name: Scale(
                _finite(moments.means[safe_name(name)]), _finite(moments.stds[safe_name(name)]), column.is_log
            )
            for name, column in self.columns.items()
            if column.role is Role.NUMERIC
        }
        fields = {name: self._field(name, column, vocabularies) for name, column in self.columns.items()}
        return Encoders(fields, vocabularies, scales)

    def _field(self, name: str, column: Column, vocabularies: Mapping[str, Vocabulary]) -> Field:
        if column.role is Role.NUMERIC:
            return Field(name, "numeric")
        vocabulary = SHARED.get(name, name)
        cardinality = vocabularies[vocabulary].cardinality
        if column.role is Role.LIST:
            return Field(name, "list", vocabulary, cardinality, column.max_length)
        return Field(name, "categorical", vocabulary, cardinality)

    def _vocabularies(self) -> dict[str, Vocabulary]:
        own = {n: c for n, c in self.columns.items() if c.role is not Role.NUMERIC and n not in SHARED}
        values = {name: self._values(name, column) for name, column in own.items()}
        length = 2 + max(map(len, values.values()))
        probe = pd.DataFrame({name: _probe(values[name], column, length) for name, column in own.items()})
        rows = nvt.Dataset(workflow_rows(probe, self.columns), cpu=True)
        coded = self.transform(rows).to_ddf().compute()
        return {
            name: _vocabulary(values[name], column, coded[safe_name(name)]) for name, column in own.items()
        }

    def _values(self, name: str, column: Column) -> Array:
        storage = self.categorify.storage_name.get(safe_name(name), safe_name(name))
        path = self.categorify.categories[storage]
        dtype = object if column.held == "string" else np.int64
        if not path:
            return np.empty(0, dtype=dtype)
        values: Array = pd.read_parquet(path, columns=[storage])[storage].dropna().to_numpy(dtype=dtype)
        return values


def workflow_rows(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Takes raw rows, gives dtypes that NVTabular keeps exact: Int64, float32, strings, lists without null.

    A column that the rows lack is null throughout. Columns come by their safe names.
    """
    rows = {}
    for name, column in columns.items():
        values = frame[name] if name in frame else pd.Series(None, index=frame.index, dtype=object)
        if column.role is Role.LIST:
            rows[name] = values.map(lambda value: value if np.ndim(value) else [])
        elif column.role is Role.NUMERIC:
            rows[name] = values.astype(np.float32)
        elif column.held == "string":
            rows[name] = values.astype(object).where(values.notna(), None)
        else:
            rows[name] = (values.fillna(False) if column.dtype == "bool" else values).astype("Int64")
    return pd.DataFrame(with_safe_names(rows)).reset_index(drop=True)


def fit_workflow(dataset: Dataset, rows: nvt.Dataset | pd.DataFrame, folder: Path) -> FittedWorkflow:
    """Fits the workflow on train rows. A Dask-backed `rows` (parquet) is read by partition, out of core.

    Vocabularies are written below `folder`; of each, the `vocabulary` most frequent values are kept.
    """
    columns = all_columns(dataset)
    if isinstance(rows, pd.DataFrame):
        rows = nvt.Dataset(workflow_rows(rows, columns), cpu=True)
    joint = [names.ITEM_ID, *SHARED]
    safe = with_safe_names(columns)
    coded = {name: c for name, c in safe.items() if c.role is not Role.NUMERIC and name not in joint}
    limits = {name: _max_size(column) for name, column in coded.items()}
    limits |= dict.fromkeys([*joint, "_".join(joint)], _max_size(columns[names.ITEM_ID]))
    categorify = Categorify(out_path=str(folder), max_size=limits, cat_cache="host")
    normalize = ops.Normalize(out_dtype=np.float32)

    # A straight chain, here too: Merlin runs a shared ancestor once for every child.
    lengths = {name: column.max_length for name, column in safe.items() if column.role is Role.LIST}
    codes = [*coded, tuple(joint)] >> categorify >> PadLists(lengths)
    numerics = [name for name, column in safe.items() if column.role is Role.NUMERIC]
    plain = [n for n in numerics if not safe[n].is_log] >> ops.LambdaOp(known, dtype=np.float32)
    logged = (
        [n for n in numerics if safe[n].is_log]
        >> ops.LambdaOp(known, dtype=np.float32)
        >> ops.LambdaOp(log1p, dtype=np.float32)
    )
    scaled = plain + logged >> normalize >> ops.FillMissing(0)

    workflow = nvt.Workflow(codes + scaled)
    executor = Executor()
    executor.target_format = workflow.executor._executor.target_format
    workflow.executor._executor = executor
    workflow.fit(rows)
    return FittedWorkflow(workflow, columns, categorify, normalize)


def with_embedding(encoders: Encoders, name: str, vectors: Array) -> Encoders:
    """Adds the encoder of an embedding, fitted on vectors (rows, length), NaN where null."""
    field = Field(name, "embedding", length=vectors.shape[1])
    return Encoders(
        encoders.fields | {name: field},
        encoders.vocabularies,
        encoders.scales,
        encoders.centres | {name: Centre.of(vectors)},
    )


def _max_size(column: Column) -> int:
    """The embedding table's size, with the rows for padding, null and unknown; 0: any."""
    return 0 if column.vocabulary is None else column.vocabulary + OOV_CODE + 1


def _probe(values: Array, column: Column, length: int) -> pd.Series:
    """Makes a column of null, an unknown value, every known one, and null to its end."""
    column_values = [None, _unknown(values), *values.tolist(), *[None] * (length - 2 - len(values))]
    if column.role is Role.LIST:
        column_values = [[] if value is None else [value] for value in column_values]
    return pd.Series(column_values, dtype=object)


def _vocabulary(values: Array, column: Column, coded: pd.Series) -> Vocabulary:
    """Reads the codes that the workflow gave the rows of `_probe`."""
    is_list = column.role is Role.LIST
    codes = np.array([code[0] for code in coded] if is_list else coded, dtype=np.int64)
    # A bool that is null reads as False, wherever it is read.
    null_code = codes[0] if column.dtype == "bool" else PAD_CODE if is_list else NULL_CODE
    if codes[:2].tolist() != [null_code, OOV_CODE]:
        raise RuntimeError(
            f"{coded.name}: null and unknown got the codes {codes[:2]}; check NVTabular's version"
        )
    order = np.argsort(values, kind="stable")
    return Vocabulary(values[order], codes[2 : 2 + len(values)][order])


def _unknown(values: Array) -> Any:
    """A value that is not among `values`."""
    if values.dtype == object:
        return "".join(values.tolist()) + "?"
    if not len(values) or values.max() < np.iinfo(np.int64).max:
        return int(values.max(initial=0)) + 1
    return int(np.setdiff1d(np.arange(len(values) + 1), values)[0])


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0
