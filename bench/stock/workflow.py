"""The notebook's workflow, made of stock NVTabular operators from a bundle's encoders."""

from __future__ import annotations

import tempfile

import numpy as np
import nvtabular as nvt
import pandas as pd
from nvtabular import ops

from contract.columns import Columns, Role
from contract.encoders import OOV_CODE, PAD_CODE, Encoders, Vocabulary


class PadList(ops.ListSlice):
    """ListSlice with the padding that 23.8 computes on the CPU, and then drops."""

    def transform(self, col_selector: nvt.ColumnSelector, df: pd.DataFrame) -> pd.DataFrame:
        """Pads what the stock operator sliced."""
        sliced = super().transform(col_selector, df)
        for name in col_selector.names:
            sliced[name] = [
                np.pad(codes, (0, self.max_elements - len(codes)), constant_values=PAD_CODE)
                for codes in sliced[name]
            ]
        return sliced


def notebook_workflow(rows: pd.DataFrame, columns: Columns, encoders: Encoders) -> nvt.Workflow:
    """Builds a workflow over `columns`, whose codes and scales are the encoders'.

    It is made of the bundle alone; codes and scales equal the fitted workflow's on every row. Scalars share
    one Categorify, each list has its own: this executor, without a memory, would run a shared one per list.
    `rows` are raw, without null; they give the dtypes.
    """
    lists = [name for name, column in columns.items() if column.role is Role.LIST]
    numerics = [name for name, column in columns.items() if column.role is Role.NUMERIC]
    logged = [name for name in numerics if encoders.scales[name].is_log]
    scalars = [name for name in columns if name not in lists and name not in numerics]
    normalize = ops.Normalize(out_dtype=np.float32)

    graph = scalars >> _categorify(scalars, encoders)
    for name in lists:
        graph += [name] >> _categorify([name], encoders) >> PadList(encoders.fields[name].length, pad=True)
    plain = [name for name in numerics if name not in logged]
    scaled = logged >> ops.LogOp() if logged else []
    graph += plain + scaled >> normalize >> ops.FillMissing(0)

    workflow = nvt.Workflow(graph)
    workflow.fit(nvt.Dataset(rows[list(columns)], cpu=True))
    normalize.means = {name: encoders.scales[name].mean for name in numerics}
    normalize.stds = {name: encoders.scales[name].std for name in numerics}
    return workflow


def _categorify(columns: list[str], encoders: Encoders) -> ops.Categorify:
    tables = {
        name: _in_code_order(encoders.vocabularies[encoders.fields[name].vocabulary]) for name in columns
    }
    return ops.Categorify(vocabs=tables, out_path=tempfile.mkdtemp())


def _in_code_order(vocabulary: Vocabulary) -> pd.Series:
    order = np.argsort(vocabulary.codes)
    if not np.array_equal(vocabulary.codes[order], OOV_CODE + 1 + np.arange(len(order))):
        raise ValueError("the codes of a vocabulary are not contiguous: Categorify cannot hold them")
    # Strings come as their codes: QueryFeast knows none.
    return pd.Series(vocabulary.codes[order] if vocabulary.is_text else vocabulary.values[order])
