"""What a request may ask of an item, and whether an item passes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from contract.errors import ErrorCode, StageError
from contract.keys import TAG_SEPARATOR, tag
from contract.tensors import FILTER_WIDTHS, fit_width


def passes(held: bytes | None, dtype: str, allowed: Sequence[int | float | str]) -> bool:
    """Whether an item whose hash holds this in a column of this dtype has one of the allowed values.

    Raises:
        ValueError: a float32 column holds no number.
    """
    if held is None:
        return False
    if dtype == "float32":
        return np.float32(held) in {np.float32(value) for value in allowed}
    return not {tag(value).encode() for value in allowed}.isdisjoint(held.split(TAG_SEPARATOR.encode()))


Filters = dict[str, list[int | float | str]]


def encode_filters(filters: Mapping[str, Sequence[int | float | str]]) -> npt.NDArray[np.uint8]:
    """Packs filters, column -> allowed values, as JSON bytes padded with zeros; uint8 (1,F)."""
    data = json.dumps(dict(filters), separators=(",", ":")).encode() if filters else b""
    row = np.zeros((1, fit_width(len(data), FILTER_WIDTHS, "filters")), dtype=np.uint8)
    row[0, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    return row


def decode_filters(row: npt.NDArray[np.uint8]) -> Filters:
    """Unpacks one row (F,) of `encode_filters`.

    Raises:
        StageError: `bad_request`, where it is not a mapping of lists.
    """
    data = row.tobytes().rstrip(b"\0")
    if not data:
        return {}
    try:
        filters: Filters = json.loads(data)
        if isinstance(filters, dict) and all(isinstance(v, list) for v in filters.values()):
            return filters
    except (json.JSONDecodeError, UnicodeDecodeError):
        pass
    raise StageError(ErrorCode.BAD_REQUEST, "request", "filters must map a column to a list of values")
