"""Tables as pandas, polars, DuckDB and Spark type them: the same values, and so the same prepared tables."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from contract.dataset import DatasetError
from tests.builders.datasets import DECLARATION, assert_same, own_tables, quiet, write_own
from training.data.prepared import Prepared
from training.data.sources import catalog

Table = dict[str, Any]
"""Columns by name."""


def prepare(folder: Path, said: list[str] | None = None) -> Prepared:
    say = quiet if said is None else said.append
    return catalog.prepare(str(folder), folder, folder / "var", say=say)


def columns(table: str) -> Table:
    data = pa.Table.from_pandas(own_tables()[table], preserve_index=False)
    return {name: data[name].combine_chunks() for name in data.column_names}


def text_list(lists: pa.Array, kind: pa.DataType) -> pa.Array:
    return pa.array(lists.to_pylist(), kind)


def numbers(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    return lambda values: values.cast(pa.int64()).cast(kind)


def decimals(values: pa.Array) -> pa.Array:
    whole = pa.types.is_integer(values.type)
    given = [None if v is None else Decimal(str(v)) for v in values.to_pylist()]
    return pa.array(given, pa.decimal128(38, 0 if whole else 3))


def dictionary(index: pa.DataType, text: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    return lambda values: pa.DictionaryArray.from_arrays(
        values.cast(text).dictionary_encode().indices.cast(index),
        values.cast(text).dictionary_encode().dictionary,
    )


def clock(unit: str, zone: str | None) -> Callable[[pa.Array], pa.Array]:
    return lambda values: values.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp(unit, tz=zone))


PROGRAMS: dict[str, dict[str, Callable[[pa.Array], pa.Array]]] = {
    "polars": {
        "user_id": numbers(pa.uint32()),
        "user_city": dictionary(pa.uint32(), pa.large_string()),
        "item_title": lambda values: values.cast(pa.large_string()),
        "item_topics": lambda values: text_list(values, pa.large_list(pa.large_string())),
        "timestamp": clock("us", None),
        "is_bought": lambda values: values.cast(pa.bool_()),
        "context_shop": lambda values: pa.array(values.to_pylist(), pa.int8()),
    },
    "DuckDB": {
        "user_id": numbers(pa.uint64()),
        "item_id": decimals,
        "user_city": dictionary(pa.uint8(), pa.string()),
        "item_price_usd": decimals,
        "timestamp": clock("us", "Europe/Oslo"),
        "is_bought": decimals,
        "context_shop": lambda values: pa.array(values.to_pylist(), pa.float64()),
    },
    "Spark": {
        "user_id": numbers(pa.int32()),
        "item_title": lambda values: values.cast(pa.binary()),
        "item_price_usd": lambda values: values.cast(pa.float32()),
        "item_topics": lambda values: text_list(values, pa.list_(pa.field("element", pa.string()))),
        "is_bought": numbers(pa.int8()),
    },
    "pandas 3": {
        "user_city": lambda values: values.cast(pa.large_string()),
        "item_title": dictionary(pa.int8(), pa.string()),
        "timestamp": clock("ms", "UTC"),
        "is_bought": lambda values: values.cast(pa.float64()),
        "item_is_in_stock": lambda values: values.cast(pa.int64()),
    },
}


def typed(program: str, table: str) -> pa.Table:
    convert = PROGRAMS[program]
    return pa.table({n: convert.get(n, lambda v: v)(v) for n, v in columns(table).items()})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(write_own(tmp_path_factory.mktemp("plain") / "books"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_writes_is_read_as_it_was_meant(program: str, plain: Prepared, tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    for name in own_tables():
        pq.write_table(
            typed(program, name),
            folder / f"{name}.parquet",
            use_deprecated_int96_timestamps=program == "Spark",
        )
    assert_same(prepare(folder), plain)


VIEWS: dict[str, Callable[[Table], None]] = {
    "text": lambda items: items.update(
        item_title=pa.array(items["item_title"].to_pylist(), pa.string_view())
    ),
    "lists": lambda items: items.update(
        item_topics=pa.array(items["item_topics"].to_pylist(), pa.list_(pa.string_view()))
    ),
    "large lists": lambda items: items.update(
        item_topics=pa.array(items["item_topics"].to_pylist(), pa.large_list(pa.string_view()))
    ),
    "lists of categories": lambda items: items.update(
        item_topics=pa.array(
            items["item_topics"].to_pylist(), pa.list_(pa.dictionary(pa.int32(), pa.string()))
        )
    ),
}


@pytest.mark.parametrize("change", VIEWS.values(), ids=VIEWS.keys())
def test_views_of_arrow_are_read(change: Callable[[Table], None], plain: Prepared, tmp_path: Path) -> None:
    items = columns("items")
    change(items)
    folder = write_own(tmp_path / "books")
    (folder / "items.parquet").unlink()
    pyarrow.feather.write_feather(pa.table(items), folder / "items.arrow", compression="uncompressed")
    assert_same(prepare(folder), plain)


def test_a_hugeint_that_no_int64_holds_is_refused_with_a_word(tmp_path: Path) -> None:
    items = columns("items") | {
        "item_code": pa.array([Decimal(2**70 + i) for i in range(15)], pa.decimal128(38, 0))
    }
    declaration = copy.deepcopy(DECLARATION)
    declaration["items"]["item_code"] = {"role": "categorical"}
    folder = write_own(tmp_path / "books", None, declaration)
    pq.write_table(pa.table(items), folder / "items.parquet")
    with pytest.raises(
        DatasetError, match=r"column item_code .*in 15 rows beyond the range of int64; declare"
    ):
        prepare(folder)


EMBEDDINGS: dict[str, tuple[Callable[[list[list[float]]], Any], dict[str, Any]]] = {
    "lists of double": (lambda rows: pa.array(rows, pa.list_(pa.float64())), {}),
    "arrays of one size": (lambda rows: pa.array(rows, pa.list_(pa.float32(), 3)), {}),
    "half floats": (
        lambda rows: pa.array([np.asarray(r, np.float16) for r in rows], pa.list_(pa.float16())),
        {},
    ),
    "integers": (lambda rows: pa.array([[int(v) for v in row] for row in rows]), {}),
    "decimals": (
        lambda rows: pa.array([[Decimal(v) for v in row] for row in rows], pa.list_(pa.decimal128(9, 2))),
        {},
    ),
    "JSON arrays": (lambda rows: pa.array([str(row) for row in rows]), {}),
    "text in brackets": (lambda rows: pa.array([str(row) for row in rows]), {"separator": ","}),
    "text with spaces": (
        lambda rows: pa.array([" ".join(map(str, row)) for row in rows]),
        {"separator": " "},
    ),
}


def with_embedding(folder: Path, values: pa.Array, **keys: Any) -> Path:
    declaration = copy.deepcopy(DECLARATION)
    declaration["items"]["item_vector_of_text"] = {"role": "embedding"} | keys
    write_own(folder, None, declaration)
    pq.write_table(pa.table(columns("items") | {"item_vector_of_text": values}), folder / "items.parquet")
    return folder


@pytest.mark.parametrize(("write", "keys"), EMBEDDINGS.values(), ids=EMBEDDINGS.keys())
def test_an_embedding_is_read_however_it_is_written(
    write: Callable[[list[list[float]]], Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    rows = [[float(i), 2.0, -1.0] for i in range(15)]
    found = prepare(with_embedding(tmp_path / "books", write(rows), **keys))
    assert [list(row) for row in found.items["item_vector_of_text"]] == rows
    assert found.dataset.items["item_vector_of_text"].max_length == 3


def test_an_embedding_with_a_hole_is_null_and_told(tmp_path: Path) -> None:
    rows: list[Any] = [[1.0, 2.0], None, [], [np.nan, 1.0], [np.inf, 1.0], *[[3.0, 4.0]] * 10]
    said: list[str] = []
    found = prepare(with_embedding(tmp_path / "books", pa.array(rows)), said)
    assert found.items["item_vector_of_text"].isna().sum() == 4
    assert any("holds nulls, NaN or infinities in 2 vectors" in line for line in said)


def test_embeddings_of_several_lengths_are_counted_and_refused(tmp_path: Path) -> None:
    rows = [[1.0, 2.0]] * 12 + [[1.0, 2.0, 3.0]] * 3
    with pytest.raises(DatasetError, match=r"vectors of several lengths \(2 in 12 rows, 3 in 3 rows\); make"):
        prepare(with_embedding(tmp_path / "books", pa.array(rows)))


def test_an_embedding_may_be_cut(tmp_path: Path) -> None:
    found = prepare(with_embedding(tmp_path / "books", pa.array([[1.0, 2.0, 3.0]] * 15), max_length=2))
    assert found.dataset.items["item_vector_of_text"].max_length == 2
