"""What a caller says of an item: a row of the items' table, checked by the columns of `dataset.yaml`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from contract import names
from contract.columns import Column, Columns, Role
from contract.dataset import Dataset
from contract.errors import WrongField
from contract.filters import shown
from contract.ids import number_of
from contract.user_features import is_of

Row = dict[str, Any]
"""Column to value, the item's own id among them; a column that was not told is None."""
MOST = 1e18
"""The largest number that models take: float32, in which they compute, cannot hold squares of larger ones."""
MOST_OF_LOGS = 1e38
"""The largest whose logarithm they take: what float32 itself holds."""
MOST_WHOLE = 2**53
"""The largest whole number: beyond it Feast rounds."""
MOST_ELEMENTS = 10_000
MOST_TEXT = 1_000
"""Characters of a text: a name or a line about the item, which each slate that holds it carries."""
MOST_SHOWN = 64
"""Characters of a name that are said again."""


def check_row(given: Mapping[str, Any], dataset: Dataset) -> tuple[int, Row]:
    """Compares what a caller wrote of an item with the columns of the items' table; gives the item's number
    and its row.

    Raises:
        WrongField: naming the column, what is wrong, and what would be right.
    """
    columns = dataset.items
    for name in given:
        if name not in columns:
            raise WrongField(name[:MOST_SHOWN], _unknown(name[:MOST_SHOWN], columns))
    if names.ITEM_ID not in given:
        raise WrongField(names.ITEM_ID, "is missing: send the item's id")
    try:
        number = number_of(given[names.ITEM_ID], dataset.item_id_dtype)
    except ValueError as error:
        raise WrongField(names.ITEM_ID, str(error)) from None
    row: Row = {names.ITEM_ID: given[names.ITEM_ID]}
    for name, column in columns.items():
        if column.role is not Role.ID:
            row[name] = _value(name, column, given.get(name))
    return number, row


def stored_row(row: Row, dataset: Dataset) -> Row:
    """Takes a row, gives the values of the catalogue's view: its features, and whether it is available."""
    flag = dataset.availability
    is_available = row.get(flag) if flag else None
    return {name: row.get(name) for name in dataset.item_catalog} | {
        names.IS_AVAILABLE: True if is_available is None else is_available
    }


def row_schema(dataset: Dataset) -> dict[str, Any]:
    """Describes in JSON Schema the columns beside the id that `check_row` takes, by name."""
    columns = dataset.items.items()
    return {name: _column_schema(column) for name, column in columns if column.role is not Role.ID}


def _column_schema(column: Column) -> dict[str, Any]:
    most = _most(column)
    kinds: dict[str, dict[str, Any]] = {
        "int64": {"type": "integer", "minimum": -most, "maximum": most},
        "float32": {"type": "number", "minimum": -most, "maximum": most},
        "string": {"type": "string", "minLength": 1, "maxLength": MOST_TEXT},
        "bool": {"type": "boolean"},
    }
    schema = kinds[str(column.dtype)]
    if column.is_several:
        schema = {"type": "array", "items": schema, "maxItems": MOST_ELEMENTS}
    if column.role is Role.EMBEDDING:
        schema |= {"minItems": column.max_length, "maxItems": column.max_length}
    return {"anyOf": [schema, {"type": "null"}]} | (
        {"description": column.description} if column.description else {}
    )


def _most(column: Column) -> float:
    """The largest number that a column takes, and with a minus before it the smallest."""
    if column.dtype == "int64" and not column.is_several:
        return MOST_WHOLE
    return MOST_OF_LOGS if column.is_log else MOST


def _unknown(name: str, columns: Columns) -> str:
    near = difflib.get_close_matches(name, columns, n=1)
    likely = f"is it {near[0]}? Send" if near else "send"
    return f"is no column of this data set's items: {likely} some of {', '.join(columns)}"


def _value(name: str, column: Column, value: Any) -> Any:
    if value is None:
        return None
    dtype = str(column.dtype)
    if column.is_several != isinstance(value, list):
        raise WrongField(name, f"must be {'a list' if column.is_several else 'one value'} of dtype {dtype}")
    elements = value if column.is_several else [value]
    if len(elements) > MOST_ELEMENTS:
        raise WrongField(name, f"has {len(elements)} elements: send at most {MOST_ELEMENTS}")
    for one in elements:
        if not is_of(one, dtype):
            raise WrongField(name, f"must hold {dtype} values: {shown(one)} is not of that dtype")
        _check_size(name, column, one)
    if column.role is Role.EMBEDDING and len(elements) != column.max_length:
        raise WrongField(name, f"must hold {column.max_length} numbers, this has {len(elements)}")
    if dtype == "float32":
        return [float(one) for one in value] if column.is_several else float(value)
    return value


def _check_size(name: str, column: Column, value: Any) -> None:
    if isinstance(value, bool):
        return
    if isinstance(value, str):
        if len(value) > MOST_TEXT:
            raise WrongField(name, f"has a text of {len(value)} characters: send at most {MOST_TEXT}")
        return
    most = _most(column)
    if abs(value) > most:
        raise WrongField(name, f"must be from {-most:g} to {most:g}, got {value:g}")
