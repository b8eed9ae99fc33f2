"""What Redis holds of an item for a bundle: the fields of its hash, and its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from contract.arrays import Floats
from contract.bundle import Manifest
from contract.filters import has_range, held_values, index_number, number
from contract.keys import encode_tags, number_field
from ensemble.stores.vectors import VECTOR_FIELD


def item_fields(row: Mapping[str, Any], vector: Floats, dtypes: Mapping[str, str]) -> dict[Any, Any]:
    """Takes an item's row and vector (D,), gives its hash: the vector, of each column the tags, and the
    number of one that may be asked for a range."""
    fields: dict[Any, Any] = {VECTOR_FIELD: np.asarray(vector, dtype="<f4").tobytes()}
    for column, dtype in dtypes.items():
        held = held_values(row.get(column), dtype)
        fields[column] = encode_tags(held)
        if has_range(dtype):
            for one in held:
                fields[number_field(column)] = index_number(number(one, dtype))
    return fields


def card_of(row: Mapping[str, Any], manifest: Manifest) -> dict[str, str | None]:
    """Takes an item's row, gives the fields that are shown of it."""
    return {name: _text(row.get(name)) for name in manifest.display}


def _text(value: object) -> str | None:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    return None if value is None else str(value)
