"""Catalogues and filters of every dtype, drawn at random, and an oracle that says in plain words who passes.

Every path that filters is compared with the oracle, in the environment that it runs in; so they are compared
with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from contract.filters import MOST_BOUND, Wanted, element, has_range, list_of

DTYPES = {
    "item_year": "int64",
    "item_tags": list_of("int64"),
    "item_price": "float32",
    "item_sizes": list_of("float32"),
    "item_brand": "string",
    "item_genres": list_of("string"),
    "item_is_new": "bool",
}
LISTS = ("item_tags", "item_sizes", "item_genres")
Value = bool | int | float | str
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
    dtype = element(DTYPES[column])
    values = _values(dtype)
    if dtype == "float32":
        values = values.map(_rounded)
    return st.none() | (st.lists(st.none() | values, max_size=3) if column in LISTS else values)


rows: st.SearchStrategy[list[Row]] = st.lists(
    st.fixed_dictionaries({column: _cells(column) for column in DTYPES}), min_size=1, max_size=6
)


def _lists(column: str) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | _values(element(DTYPES[column])), min_size=1, max_size=3)


def _bounds(column: str) -> dict[str, st.SearchStrategy[Any]]:
    if not has_range(DTYPES[column]):
        return {}
    values = _values(DTYPES[column])
    if DTYPES[column] == "int64":
        values = values.map(lambda value: max(-MOST_BOUND, min(MOST_BOUND, value)))
    return dict.fromkeys(("gt", "gte", "lt", "lte"), values)


def _objects(parts: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    some = st.sets(st.sampled_from(list(parts)), min_size=1, max_size=3)
    return some.flatmap(lambda names: st.fixed_dictionaries({name: parts[name] for name in names}))


def _conditions(column: str) -> st.SearchStrategy[Any]:
    """Whatever may be asked of a column."""
    positive = {"any": _lists(column)} | _bounds(column)
    unless = _lists(column) | _objects(positive)
    return _lists(column) | _objects(positive) | _objects(positive | {"not": unless})


wanted: st.SearchStrategy[Wanted] = st.dictionaries(
    st.sampled_from(list(DTYPES)), st.none(), min_size=1, max_size=2
).flatmap(lambda columns: st.fixed_dictionaries({column: _conditions(column) for column in columns}))


def is_passing(row: Row, filters: Wanted) -> bool:
    """The oracle: in every column, is what the item holds what is asked for."""
    return all(is_met(row[column], asked, DTYPES[column]) for column, asked in filters.items())


def is_met(cell: Any, asked: Any, dtype: str) -> bool:
    """Whether what an item holds in a column of a dtype is what is asked for."""
    held = listed(cell)
    if isinstance(asked, list):
        return (not held and None in asked) or any(
            _is_equal(one, value, dtype) for one in held for value in asked if value is not None
        )
    rules: dict[str, Callable[[Any], bool]] = {
        "any": lambda values: is_met(cell, values, dtype),
        "not": lambda unwanted: not is_met(cell, unwanted, dtype),
        "gt": lambda bound: bool(held) and held[0] > _as_held(bound, dtype),
        "gte": lambda bound: bool(held) and held[0] >= _as_held(bound, dtype),
        "lt": lambda bound: bool(held) and held[0] < _as_held(bound, dtype),
        "lte": lambda bound: bool(held) and held[0] <= _as_held(bound, dtype),
    }
    return all(rules[part](value) for part, value in asked.items())


def _as_held(value: Any, dtype: str) -> Any:
    return _rounded(value) if element(dtype) == "float32" else value


def _is_equal(held: Any, value: Value, dtype: str) -> bool:
    return bool(_as_held(held, dtype) == _as_held(value, dtype))


def listed(cell: Any) -> list[Any]:
    """Gives the values that an item holds in a column."""
    return [one for one in (cell if isinstance(cell, list) else [cell]) if one is not None]
