"""Ids as callers have them, their own, and the numbers that stand for them inside.

An own id is an integer or a text, as the dtype of the id columns in `dataset.yaml` says. Inside, in tensors,
keys of Redis, features and models, an id is an int64: an integer stands for itself, and for a text stand 63
bits of its BLAKE2b. Two texts of one number are refused when data is prepared; the way back from a number is
`contract/texts.py`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

from contract.names import NULL_INT

OwnId = int | str
IdDtype = Literal["int64", "string"]
MAX_LENGTH = 256
"""Characters of a text id."""
FIRST, LAST = NULL_INT + 1, 2**63 - 1
"""The integers that may be ids: every int64 but the one that stands for null and padding."""


def number_of_text(text: str) -> int:
    """Takes a text, gives its number: from 0 to 2^63 - 1."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def number_of(own: OwnId, dtype: IdDtype) -> int:
    """Takes an own id, gives its number.

    Raises:
        ValueError: it is no id of this dtype; the message says what to send instead.
    """
    if dtype == "string":
        if not isinstance(own, str):
            raise ValueError("must be a string: the ids of this bundle are text, send it in quotes")
        if not 1 <= len(own) <= MAX_LENGTH:
            raise ValueError(f"must have 1 to {MAX_LENGTH} characters, this has {len(own)}")
        return number_of_text(own)
    if isinstance(own, bool) or not isinstance(own, int):
        raise ValueError("must be an integer, without quotes or decimals: the ids of this bundle are int64")
    if not FIRST <= own <= LAST:
        raise ValueError(f"must be from {FIRST} to {LAST}")
    return own
