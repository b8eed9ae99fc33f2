"""Reads embeddings: vectors of one length, as lists of numbers or as text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import Column
from contract.items import MOST
from training.data.lists import from_brackets, has_brackets
from training.data.values import Warn, Wrong, examples, no_separator, too_large


def read_embeddings(values: pa.ChunkedArray, column: Column, warn: Warn) -> pa.ChunkedArray:
    """Gives lists of float32, all of one length; null where there is none, or not every number is one.

    Raises:
        Wrong: they have several lengths, or hold something else than numbers.
    """
    if pa.types.is_string(values.type):
        values = _from_text(values, column)
    if not pa.types.is_list(values.type):
        raise pa.ArrowTypeError(f"{values.type} is no list of numbers")
    array = values.combine_chunks()
    flat = array.flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(array)), lengths)
    is_odd = np.bincount(rows, ~np.isfinite(flat), minlength=len(array)) > 0
    if is_odd.any():
        warn(f"holds nulls, NaN or infinities in {int(is_odd.sum())} vectors; these are taken as null")
    is_known = (lengths > 0) & ~is_odd
    found, counts = np.unique(lengths[is_known], return_counts=True)
    if len(found) > 1:
        several = ", ".join(f"{length} in {count} rows" for length, count in zip(found, counts, strict=True))
        raise Wrong(
            f"holds vectors of several lengths ({several}); make them one length, or leave those of another "
            "length null"
        )
    numbers = flat[is_known[rows]]
    beyond = np.abs(numbers) > MOST
    if beyond.any() and not column.clip:
        raise too_large(int(beyond.sum()), numbers[beyond][0])
    ends = np.cumsum(np.where(is_known, lengths, 0))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    narrow = pa.array(np.clip(numbers, -MOST, MOST).astype(np.float32))
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, narrow, mask=pa.array(~is_known))])


def _from_text(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Cuts text such as `0.1 0.2`, `[0.1 0.2]`, or without a separator `[0.1, 0.2]`."""
    if column.separator is None and has_brackets(values):
        return from_brackets(values, column)
    if column.separator is None:
        raise no_separator(values, "a list of float32")
    bare = pc.utf8_trim(values, characters="[](){} \t")
    parts = pc.split_pattern(pc.if_else(pc.equal(bare, ""), None, bare), column.separator)
    lists = parts.combine_chunks()
    flat = pc.utf8_trim_whitespace(lists.flatten())
    try:
        numbers = pc.cast(pc.if_else(pc.equal(flat, ""), None, flat), pa.float64())
    except pa.ArrowInvalid:
        raise Wrong(
            f"holds no numbers between the marks {column.separator!r} (such as {examples(values)}); correct "
            "them, or the `separator:`"
        ) from None
    offsets = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy())])
    cut = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), numbers, mask=pc.is_null(lists))
    return pa.chunked_array([cut])


def width_of(values: pa.ChunkedArray) -> int:
    """How long the vectors of a column are; 0 where there are none."""
    return int(pc.max(pc.list_value_length(values)).as_py() or 0)
