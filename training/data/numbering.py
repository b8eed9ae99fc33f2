"""Puts numbers in the place of ids that are text, and finds two texts that would have the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contract import names
from contract.ids import number_of_text

OwnTexts = Mapping[str, Mapping[int, str]]
"""By id column, where it is text, each text by its number: the way back."""


def with_numbers(
    tables: Mapping[str, pa.Table], number: Callable[[str], int] = number_of_text
) -> tuple[dict[str, pa.Table], OwnTexts, list[str]]:
    """Takes tables of declared types, gives them with id columns of int64, the way back, and what is wrong:
    two texts whose number is the same, which is all but impossible, and would mix two users or items."""
    numbered = dict(tables)
    texts: dict[str, dict[int, str]] = {}
    problems: list[str] = []
    for key in (names.USER_ID, names.ITEM_ID):
        places = [t for t, rows in tables.items() if key in rows.column_names and _is_text(rows[key])]
        if not places:
            continue
        known = pc.unique(pa.chunked_array([c for place in places for c in tables[place][key].chunks]))
        numbers = np.fromiter(map(number, known.to_pylist()), np.int64, len(known))
        texts[key] = {}
        for text, own in zip(known.to_pylist(), numbers.tolist(), strict=True):
            if (other := texts[key].setdefault(own, text)) != text:
                problems.append(
                    f"{key}: {other!r} and {text!r} would have the same number ({own}) inside; rename one of "
                    "them, the same in each table"
                )
        for place in places:
            at = pc.index_in(tables[place][key], value_set=known)
            rows = numbered[place]
            rows = rows.set_column(
                rows.column_names.index(key), key, pa.chunked_array([numbers[at.to_numpy()]])
            )
            numbered[place] = rows
    return numbered, texts, problems


def _is_text(values: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(values.type))
