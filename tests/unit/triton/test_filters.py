"""What the chain says of filters that its callers should not have sent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from contract.errors import ErrorCode, StageError
from contract.filters import Condition, Range, canonical, decode_filters, index_number
from tests.builders.filters import DTYPES


def row(data: str) -> np.ndarray:
    return np.frombuffer(data.encode() + b"\0" * 5, dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[" * 2000, "filters must map a column to a list of values"),
        ("[1]", "filters must map a column to a list of values"),
        ('{"item_year": 1}', "filters.item_year: must be a list of int64 values, or an object of any, gt"),
        ('{"item_year": [1]', "filters must map a column to a list of values"),
        ('{"\\ud800": [1]}', "filters must map a column to a list of values"),
        ('{"item_brand": ["\\ud800"]}', "filters.item_brand: must list string values"),
        ('{"item_brand": [""]}', "filters.item_brand: must list string values: '' is not"),
        ('{"item_year": [true]}', "filters.item_year: must list int64 values: True is not"),
        ('{"item_year": [1.0]}', "filters.item_year: must list int64 values: 1.0 is not"),
        ('{"item_price": [NaN]}', "filters.item_price: must list float32 values: nan is not a finite number"),
        (f'{{"item_price": [1{"0" * 400}]}}', "filters.item_price: must list float32 values: 1000"),
        ('{"item_is_new": [1]}', "filters.item_is_new: must list bool values: 1 is not"),
        ('{"item_year": [[1]]}', "filters.item_year: must list int64 values"),
        ('{"item_year": []}', "filters.item_year: the list is empty"),
        (
            '{"item_colour": [1]}',
            "filters.item_colour: this bundle cannot filter on it: use one of item_brand",
        ),
        ('{"item_year": null}', "filters.item_year: must be a list of int64 values, or an object of any, gt"),
        ('{"item_year": {}}', "filters.item_year: the object is empty: say any, gt, gte, lt, lte or not"),
        ('{"item_brand": {"gte": "a"}}', "filters.item_brand.gte: a string column has no range: list"),
        ('{"item_tags": {"gte": 1}}', "filters.item_tags.gte: a list[int64] column has no range: list"),
        ('{"item_is_new": {"lt": true}}', "filters.item_is_new.lt: a bool column has no range"),
        ('{"item_price": {"gte": NaN}}', "filters.item_price.gte: must be one finite float32 number: nan"),
        ('{"item_price": {"gte": null}}', "filters.item_price.gte: must be one finite float32 number: None"),
        ('{"item_year": {"gte": 1.5}}', "filters.item_year.gte: must be one finite int64 number: 1.5"),
        ('{"item_year": {"gte": 9007199254740992}}', "filters.item_year.gte: must be from -9007199254740991"),
        ('{"item_year": {"\\ud800": 1}}', "filters.item_year.?: is not known here: use any"),
        ('{"item_year": {"not": {"not": [1]}}}', "filters.item_year.not.not: is not known here: use any, gt"),
        ('{"item_year": {"not": []}}', "filters.item_year.not: the list is empty"),
        (json.dumps({"item_year": list(range(1000))}), "filters is too long: 4905, at most 2048"),
    ],
    ids=lambda text: text[:40],
)
def test_a_wrong_filter_is_the_callers_to_mend(data: str, message: str) -> None:
    with pytest.raises(StageError) as refused:
        decode_filters(row(data), DTYPES)
    assert refused.value.code is ErrorCode.BAD_REQUEST
    assert refused.value.message.startswith(message)


def test_the_same_bytes_are_unpacked_once() -> None:
    data = '{"item_price": [12.99, 0.1], "item_brand": ["a"]}'
    first = decode_filters(row(data), DTYPES)
    assert first == {
        "item_price": Condition(frozenset({"12.989999771118164", "0.10000000149011612"})),
        "item_brand": Condition(frozenset({"a"})),
    }
    assert decode_filters(row(data), DTYPES) is first
    assert decode_filters(row(""), DTYPES) == {}


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (2**63 - 1, "int64", "9223372036854775807"),
        ("1999", "int64", "1999"),
        (1999.0, "int64", "1999"),
        (-0.0, "float32", "0.0"),
        (1, "float32", "1.0"),
        (1e39, "float32", "inf"),
        (True, "bool", "1"),
        ("Ä", "string", "Ä"),
    ],
)
def test_a_value_has_one_canonical_form(value: object, dtype: str, text: str) -> None:
    assert canonical(value, dtype) == text


@pytest.mark.parametrize(
    ("asked", "low", "high", "is_low_open", "is_high_open"),
    [
        ({"gte": 5, "lt": 20}, 5.0, 20.0, False, True),
        ({"gt": 5, "gte": 5}, 5.0, np.inf, True, False),
        ({"gt": 4, "gte": 5, "lte": 7, "lt": 8}, 5.0, 7.0, False, False),
        ({"lt": 12.99}, -np.inf, 12.989999771118164, False, True),
        ({"gte": -1e39}, -np.inf, np.inf, False, False),
    ],
    ids=str,
)
def test_bounds_make_one_range(
    asked: dict[str, float], low: float, high: float, is_low_open: bool, is_high_open: bool
) -> None:
    found = decode_filters(row(json.dumps({"item_price": asked})), DTYPES)
    expected = Range("float32", low, high, is_low_open, is_high_open)
    assert found == {"item_price": Condition(within=expected)}


def test_an_infinite_number_is_indexed_beyond_every_float32() -> None:
    most = float(np.finfo(np.float32).max)
    assert float(index_number(-np.inf)) < -most < most < float(index_number(np.inf)) < np.inf
