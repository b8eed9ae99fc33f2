"""Reads labels as 0, 1 and null: numbers, comparisons, named values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import COMPARE, Column
from training.data.values import Warn, Wrong, kind_of, positives, read_numbers


def read_labels(values: pa.ChunkedArray, column: Column, is_text: bool, _: Warn) -> pa.ChunkedArray:
    """Reads a label; `is_text` where the file knows text alone."""
    given = kind_of(values.type)
    if column.positive is None:
        if given == "string":
            if not is_text:
                raise Wrong(f"is text ({len(values)} rows); say which are positive: `{positives(values)}`")
            try:
                values = read_numbers(values, "number")
            except Wrong:
                raise Wrong(
                    f"is text ({len(values)} rows); say which are positive: `{positives(values)}`"
                ) from None
        if given == "bool":
            values = values.cast(pa.int8())
        numbers = values.cast(pa.float64(), safe=False)
        wrong = pc.and_(pc.is_valid(numbers), pc.invert(pc.is_in(numbers, pa.array([0.0, 1.0]))))
        if pc.any(wrong).as_py():
            high = np.nanquantile(numbers.drop_null().to_numpy(), 0.5)
            raise Wrong(
                f"is neither 0, 1 nor null in {pc.sum(wrong).as_py()} rows; a label is one of these: say "
                f'which are positive, such as `positive: ">= {high:g}"`'
            )
        return numbers.cast(pa.int64())
    if column.comparison is not None:
        operator, bound = column.comparison
        if given == "string" and not is_text:
            raise Wrong(
                f"is text ({len(values)} rows), which is compared with no number; name the values: "
                f"`{positives(values)}`"
            )
        numbers = (read_numbers(values, "number") if given == "string" else values).cast(
            pa.float64(), safe=False
        )
        array = numbers.to_numpy()
        positive = COMPARE[operator](array, bound).astype(np.int64)
        return pa.chunked_array([pa.array(positive, pa.int64(), mask=np.isnan(array))])
    assert isinstance(column.positive, list)
    if given == "string":
        chosen = pc.is_in(pc.utf8_trim_whitespace(values), pa.array([str(v) for v in column.positive]))
    else:
        try:
            wanted = [float(v) for v in column.positive]
        except ValueError:
            raise Wrong(
                f"is {values.type}, and `positive:` names text; name numbers: `{positives(values)}`"
            ) from None
        chosen = pc.is_in(values.cast(pa.float64(), safe=False), pa.array(wanted))
    if not pc.any(chosen).as_py():
        raise Wrong(
            f"holds none of the values of `positive:` in {len(values)} rows; name those that it holds: "
            f"`{positives(values)}`"
        )
    return pc.if_else(pc.is_valid(values), chosen.cast(pa.int64()), None)
