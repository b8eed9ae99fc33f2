"""What a model must know of an encoded column: its kind, width and vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PAD_CODE = 0
NULL_CODE = 1
OOV_CODE = 2


@dataclass(frozen=True)
class Field:
    """An encoded column.

    A categorical is int64 (rows,), codes below `cardinality`; a numeric is float32 (rows,); a list is int64
    (rows, length), padded with `PAD_CODE` after its last element. `vocabulary` names the column whose
    codes, and so whose embedding table, it shares: `user_recent_item_ids` has that of `item_id`.
    """

    name: str
    kind: Literal["categorical", "numeric", "list"]
    vocabulary: str = ""
    cardinality: int = 0
    length: int = 1
