"""Runs a model on some rows at a time: what it holds meanwhile does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from contract.arrays import Array

ROWS = 4096


def in_pieces(
    run: Callable[[dict[str, Array]], Array], columns: Mapping[str, Array], rows: int = ROWS
) -> Array:
    """Runs on columns (R, ...), `rows` of them at a time and at least once; gives what comes of all,
    (R, ...)."""
    total = len(next(iter(columns.values())))
    parts = [
        run({name: values[at : at + rows] for name, values in columns.items()})
        for at in range(0, max(total, 1), rows)
    ]
    return np.concatenate(parts)
