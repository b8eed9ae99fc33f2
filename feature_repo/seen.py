"""The keys and the codec of `seen:{user_id}`, the only definition of what a user has seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PATTERN = "seen:*"


def seen_key(user_id: int) -> str:
    """The key of the items that a user has seen."""
    return f"seen:{user_id}"


def encode_seen(item_ids: npt.ArrayLike) -> bytes:
    """Packs item ids, newest first, as little-endian int64."""
    return np.asarray(item_ids, dtype="<i8").tobytes()
