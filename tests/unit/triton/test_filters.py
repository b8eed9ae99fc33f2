"""What the chain says of filters that its callers should not have sent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from contract.errors import ErrorCode, StageError
from contract.filters import canonical, decode_filters
from tests.builders.filters import DTYPES


def row(data: str) -> np.ndarray:
    return np.frombuffer(data.encode() + b"\0" * 5, dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[" * 2000, "filters must map a column to a list of values"),
        ("[1]", "filters must map a column to a list of values"),
        ('{"item_year": 1}', "filters must map a column to a list of values"),
        ('{"item_year": [1]', "filters must map a column to a list of values"),
        ('{"\\ud800": [1]}', "filters must map a column to a list of values"),
        ('{"item_brand": ["\\ud800"]}', "filters.item_brand: must list string values"),
        ('{"item_brand": [""]}', "filters.item_brand: must list string values: '' is not"),
        ('{"item_year": [true]}', "filters.item_year: must list int64 values: True is not"),
        ('{"item_year": [1.0]}', "filters.item_year: must list int64 values: 1.0 is not"),
        ('{"item_price": [NaN]}', "filters.item_price: must list float32 values: nan is not"),
        (f'{{"item_price": [1{"0" * 400}]}}', "filters.item_price: must list float32 values: 1000"),
        ('{"item_is_new": [1]}', "filters.item_is_new: must list bool values: 1 is not"),
        ('{"item_year": [[1]]}', "filters.item_year: must list int64 values"),
        ('{"item_year": []}', "filters.item_year: the list is empty"),
        (
            '{"item_colour": [1]}',
            "filters.item_colour: this bundle cannot filter on it: use one of item_brand",
        ),
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
    assert first == {"item_price": {"12.989999771118164", "0.10000000149011612"}, "item_brand": {"a"}}
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
