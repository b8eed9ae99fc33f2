"""Reads lists, and takes off what only says how a column is stored."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contract.columns import Column
from training.data.prepared import arrow_type
from training.data.values import Warn, Wrong, examples, kind_of, no_separator, read_numbers, said


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Takes off what only says how values are stored: dictionaries, extension types, views, wide offsets."""
    if pa.types.is_run_end_encoded(values.type):
        values = pa.chunked_array(
            [pc.run_end_decode(chunk) for chunk in values.chunks], values.type.value_type
        )
    if isinstance(values.type, pa.ExtensionType):
        values = pa.chunked_array([chunk.storage for chunk in values.chunks], values.type.storage_type)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if _is_text(values.type):
        values = _as_text(values)
    elif _is_view(values.type):  # Arrow casts none of these yet
        values = pa.chunked_array([pa.array(values.to_pylist(), pa.list_(values.type.value_type))])
    if pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.cast(pa.list_(values.type.value_type))
    if pa.types.is_list(values.type):
        element = values.type.value_type
        if pa.types.is_dictionary(element) or _is_text(element):
            array = values.combine_chunks()
            flat = plain(pa.chunked_array([array.flatten()])).combine_chunks()
            values = _rebuilt(values, flat)
    return values


def _is_text(given: pa.DataType) -> bool:
    return given in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Gives plain strings; bytes are taken for UTF-8, as some programs write text."""
    if values.type in (pa.string_view(), pa.binary_view()):
        kind = pa.string() if values.type == pa.string_view() else pa.binary()
        values = pa.chunked_array([pa.array(values.to_pylist(), kind)])
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        raise Wrong(
            f"is {values.type}, bytes that are no text in UTF-8; write it as text, or take its line out"
        ) from None


def _is_view(given: pa.DataType) -> bool:
    return isinstance(given, pa.ListViewType | pa.LargeListViewType)


def read_lists(values: pa.ChunkedArray, column: Column, _: bool, warn: Warn) -> pa.ChunkedArray:
    """Reads lists, and text in brackets or between separators: lists of the declared type, without nulls."""
    wanted, given = arrow_type(column), kind_of(values.type)
    if given == "string" and has_brackets(values):
        values = from_brackets(values, column)
        given = kind_of(values.type)
    if given == "string":
        if column.separator is None:
            raise no_separator(values, said(column))
        parts = pc.split_pattern(values, column.separator)
        flat = pc.utf8_trim_whitespace(parts.combine_chunks().flatten())
        values = _rebuilt(parts, pc.if_else(pc.equal(flat, ""), None, flat))
        if column.dtype != "string":
            flat = values.combine_chunks().flatten()
            values = _rebuilt(values, read_numbers(pa.chunked_array([flat]), said(column)).combine_chunks())
    elif column.separator is not None:
        warn(f"is {values.type} already: its `separator:` is not used")
    if not pa.types.is_list(values.type):
        raise pa.ArrowTypeError(f"{values.type} is another kind of value")
    array = values.combine_chunks()
    flat = array.flatten()
    if flat.null_count:
        if not pa.types.is_null(flat.type) and given != "string":
            warn(f"holds {flat.null_count} nulls within its lists; they are left out")
        values = _without_nulls(array)
    element = kind_of(values.type.value_type)
    if element == "null":
        return values.cast(wanted)
    if element == "bool":
        values, element = values.cast(pa.list_(pa.int8())), "number"
    if element != kind_of(wanted.value_type):
        raise pa.ArrowTypeError(f"{values.type} is another kind of value")
    return values.cast(wanted)


def from_brackets(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Reads text that brackets mark as lists: JSON's arrays, and Python's lists as pandas writes them."""
    lists = []
    for text in values.to_pylist():
        try:
            lists.append(read_brackets(text) if text and text.strip() else None)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise Wrong(
                f"holds brackets that are no list in JSON or Python (such as {text[:40]}); write JSON, such "
                'as `["a", "b"]`, or the elements alone, with what stands between them as its `separator:`'
            ) from None
    try:
        return pa.chunked_array([pa.array(lists)])
    except (pa.ArrowException, OverflowError):
        raise Wrong(
            f"holds lists of several kinds of values (such as {examples(values)}); write {said(column)}"
        ) from None


def has_brackets(texts: pa.ChunkedArray) -> bool:
    """Whether each text that is not empty is in brackets, and one is."""
    bare = pc.utf8_trim_whitespace(texts)
    full = bare.filter(pc.fill_null(pc.not_equal(bare, ""), False))
    return len(full) > 0 and bool(pc.all(pc.match_substring_regex(full, r"(?s)^\[.*\]$")).as_py())


def read_brackets(text: str) -> list[Any]:
    """Reads one list of texts or numbers.

    Raises:
        ValueError, SyntaxError: it is none.
    """
    try:
        read = json.loads(text)
    except ValueError:
        if re.search(r"""['"]\s+['"]""", text):  # Python would join what numpy writes without commas
            raise ValueError(text) from None
        read = ast.literal_eval(text)
    if not isinstance(read, list):
        raise ValueError(text)
    return read


def _rebuilt(lists: pa.ChunkedArray, flat: pa.Array) -> pa.ChunkedArray:
    """Puts other elements, as many and in the same order, into lists."""
    array = lists.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return _lists(flat, lengths, array)


def _without_nulls(array: pa.ListArray) -> pa.ChunkedArray:
    flat, rows = array.flatten(), pc.list_parent_indices(array)
    is_valid = pc.is_valid(flat)
    lengths = np.bincount(rows.filter(is_valid).to_numpy(), minlength=len(array))
    return _lists(flat.filter(is_valid), lengths, array)


def _lists(flat: pa.Array, lengths: npt.NDArray[np.int64], like: pa.ListArray) -> pa.ChunkedArray:
    """Cuts elements into lists of the given lengths, null where `like` is."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = pc.is_null(like).combine_chunks() if isinstance(like, pa.ChunkedArray) else pc.is_null(like)
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(offsets), flat, mask=mask)])
