"""Catalogues and filters of every dtype, drawn at random, and an oracle that says in plain words who passes.

Every path that filters is compared with the oracle, in the environment that it runs in; so they are compared
with each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from contract.filters import Value, Wanted

DTYPES = {
    "item_year": "int64",
    "item_tags": "int64",
    "item_price": "float32",
    "item_sizes": "float32",
    "item_brand": "string",
    "item_genres": "string",
    "item_is_new": "bool",
}
LISTS = ("item_tags", "item_sizes", "item_genres")
Row = dict[str, Any]
"""What an item holds, by column, as the item table does: None is null, and so is None in a list."""

_POOLS: dict[str, tuple[Value, ...]] = {
    "int64": (0, 1, -5, 1999, 2**24 + 1, 2**53 + 1, 2**53, 2**63 - 1, -(2**63) + 1),
    "float32": (0.1, 12.99, 0.0, -0.0, 1, 2.5, 16777217, 1e-45, 3.4028235e38, -1.5e-30, 0.10000001, 1 / 3),
    "string": ("a", "A", "Krimi & mehr, fein", "o'neil|{x}", "12.99", "1", "-1", "ß", "\0", " a", "True"),
    "bool": (True, False),
}
"""Few, so that what is asked for is often held; some are alike once rounded, folded or written badly."""
_ANY: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63) + 1, 2**63 - 1),
    "float32": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1),
    "string": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    "bool": st.booleans(),
}


def _rounded(value: Any) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _values(dtype: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(_POOLS[dtype]) | _ANY[dtype]


def _cells(column: str) -> st.SearchStrategy[Any]:
    """As a file of the column's type gives them back: a float32 is rounded."""
    dtype = DTYPES[column]
    values = _values(dtype)
    if dtype == "float32":
        values = values.map(_rounded)
    return st.none() | (st.lists(st.none() | values, max_size=3) if column in LISTS else values)


rows: st.SearchStrategy[list[Row]] = st.lists(
    st.fixed_dictionaries({column: _cells(column) for column in DTYPES}), min_size=1, max_size=6
)
wanted: st.SearchStrategy[Wanted] = st.dictionaries(
    st.sampled_from(list(DTYPES)), st.none(), min_size=1, max_size=2
).flatmap(
    lambda columns: st.fixed_dictionaries(
        {column: st.lists(_values(DTYPES[column]), min_size=1, max_size=3) for column in columns}
    )
)


def is_passing(row: Row, filters: Wanted) -> bool:
    """The oracle: in every column, does the item hold a value that equals one of those that are asked for."""
    return all(
        any(_is_equal(one, value, DTYPES[column]) for one in _listed(row[column]) for value in values)
        for column, values in filters.items()
    )


def _is_equal(held: Any, value: Value, dtype: str) -> bool:
    return bool(_rounded(held) == _rounded(value)) if dtype == "float32" else held == value


def _listed(cell: Any) -> list[Any]:
    return [one for one in (cell if isinstance(cell, list) else [cell]) if one is not None]
