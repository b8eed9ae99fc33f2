"""Encoded rows as one numeric matrix, for models that know no embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack

from contract.arrays import Array
from contract.encoders import PAD_CODE, Field

Columns = Mapping[str, Array]
MOST_LEVELS = 64
"""Codes up to which a categorical gets a coefficient per level; ids are left to their rates and counts."""


def numerics(fields: Mapping[str, Field], arrays: Columns) -> npt.NDArray[np.float32]:
    """Stacks the numeric columns, (rows, N), in the order of `fields`."""
    chosen = [arrays[name] for name, field in fields.items() if field.kind == "numeric" and name in arrays]
    rows = len(next(iter(arrays.values())))
    return np.stack(chosen, axis=1).astype(np.float32) if chosen else np.zeros((rows, 0), np.float32)


def small_categoricals(fields: Mapping[str, Field], arrays: Columns) -> list[str]:
    """Lists the categoricals of at most `MOST_LEVELS` codes."""
    return [
        name
        for name, field in fields.items()
        if field.kind == "categorical" and field.cardinality <= MOST_LEVELS and name in arrays
    ]


def one_hot(fields: Mapping[str, Field], arrays: Columns) -> csr_matrix:
    """Gives numerics, their squares, and an indicator per level of the small categoricals and lists."""
    dense = np.clip(numerics(fields, arrays), -4, 4)
    blocks = [csr_matrix(dense), csr_matrix(dense**2)]
    blocks += [_levels(fields[name], arrays[name][:, None]) for name in small_categoricals(fields, arrays)]
    blocks += [
        _levels(field, arrays[name])
        for name, field in fields.items()
        if field.kind == "list" and field.cardinality <= MOST_LEVELS and name in arrays
    ]
    return hstack(blocks, format="csr")


def _levels(field: Field, codes: Array) -> csr_matrix:
    rows, places = np.nonzero(codes != PAD_CODE)
    ones = np.ones(len(rows), dtype=np.float32)
    return csr_matrix((ones, (rows, codes[rows, places])), shape=(len(codes), field.cardinality))
