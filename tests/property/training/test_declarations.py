"""Whatever a `dataset.yaml` and its tables hold: they are prepared, or refused in words."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.columns import Role
from contract.dataset import DatasetError
from tests.builders.datasets import DECLARATION, own_tables, quiet
from training.data.sources import catalog

EXAMPLES = 150
"""Per property."""
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "role": st.sampled_from([*map(str, Role), "thing", None, 3]),
    "dtype": st.sampled_from(["int64", "float32", "string", "bool", "timestamp", "text", 7, None]),
    "from": st.sampled_from(["user_id", "nothing", "", 5]),
    "vocabulary": st.integers(-1, 5),
    "max_length": st.integers(-1, 5),
    "is_log": st.booleans(),
    "is_affinity": st.booleans(),
    "is_filterable": st.booleans(),
    "unit": st.sampled_from(["s", "ms", "us", "ns", "min"]),
    "format": st.sampled_from(["%Y", "%d/%m/%Y", "%", "%Q", "", "%z"]),
    "timezone": st.sampled_from(["UTC", "Europe/Oslo", "Mars", "", "../x"]),
    "separator": st.sampled_from(["|", "", "ab"]),
    "positive": st.sampled_from([">= 4", "> 0", "no", [], [1], ["a", 2.5], 3, "== 1e400"]),
    "clip": st.booleans(),
    "surprise": st.just(1),
}
LINES = st.dictionaries(st.sampled_from(list(KEYS)), st.none(), max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries({key: KEYS[key] for key in keys})
)
TOP: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(["books", "Books", "", 3, "synthetic"]),
    "as_of": st.sampled_from(["2025-03-05", "2025-03-05T00:00:00Z", "2000-01-01", "soon", 0, None]),
    "history_until": st.sampled_from(["2025-03-02", "2030-01-01", "never"]),
    "label": st.sampled_from(["is_bought", "", "any", "nothing"]),
    "seen_labels": st.sampled_from(["any", "is_bought", "nothing"]),
    "retrieval_positives": st.sampled_from(["any", "is_bought", 1]),
    "split_by": st.sampled_from(["time", "rows", "luck"]),
    "split": st.fixed_dictionaries(
        {part: st.sampled_from(["2025-03-04", "2025-03-07", "2025-03-11", "x"]) for part in
         ("train_until", "validate_until", "test_until")}
    ),
    "files": st.sampled_from(
        [{}, {"users": {"path": "nowhere.csv"}}, {"shop": {}}, {"users": {"delimiter": "ab"}}]
    ),
    "checks": st.fixed_dictionaries(
        {"min_users": st.integers(-1, 30), "max_unknown_share": st.floats(-1, 2)}
    ),
    "activity": st.fixed_dictionaries(
        {"recent_items": st.integers(-1, 3), "snapshot_hours": st.integers(0, 50)}
    ),
    "surprise": st.just(1),
}  # fmt: skip
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "small": st.integers(0, 30),
    "uint64": st.integers(0, 2**64 - 1),
    "float64": st.floats(),
    "string": st.text(max_size=6),
    "bool": st.booleans(),
    "date32": st.dates(),
    "timestamp[ns]": st.integers(-(2**63) + 1, 2**63 - 1),
    "timestamp[us]": st.integers(-(2**62), 2**62),
    "list<string>": st.lists(st.none() | st.text(max_size=3), max_size=3),
    "list<double>": st.lists(st.none() | st.floats(), max_size=3),
    "struct": st.fixed_dictionaries({"a": st.integers(0, 3)}),
    "null": st.none(),
}
TYPES = {
    "int64": pa.int64(),
    "small": pa.int64(),
    "uint64": pa.uint64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "date32": pa.date32(),
    "timestamp[ns]": pa.timestamp("ns"),
    "timestamp[us]": pa.timestamp("us", tz="UTC"),
    "list<string>": pa.list_(pa.string()),
    "list<double>": pa.list_(pa.float64()),
    "struct": pa.struct([("a", pa.int64())]),
    "null": pa.null(),
}
PLACES = [(table, column) for table in ("users", "items", "interactions") for column in DECLARATION[table]]
BOUNDED = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def write(folder: Path, declaration: Any, tables: dict[str, pa.Table]) -> None:
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "dataset.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False, allow_unicode=True))


def plain_tables() -> dict[str, pa.Table]:
    return {name: pa.Table.from_pandas(frame, preserve_index=False) for name, frame in own_tables().items()}


def prepared_or_refused(declaration: Any, tables: dict[str, pa.Table]) -> None:
    """Fails with whatever is not an error of ours, or one without words."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, declaration, tables)
        try:
            catalog.prepare(str(folder), folder, folder / "var", say=quiet)
        except DatasetError as error:
            said = str(error)
        else:
            again = catalog.prepare(str(folder), folder, folder / "var", say=quiet)
            assert isinstance(again.interactions, pd.DataFrame)
            return
        assert all(len(line) > 20 for line in said.splitlines()), said
        assert not (folder / "var").exists()


@given(place=st.sampled_from(PLACES), line=LINES, is_added=st.booleans())
@BOUNDED
def test_any_line(place: tuple[str, str], line: dict[str, Any], is_added: bool) -> None:
    declaration = copy.deepcopy(DECLARATION)
    table, column = place
    declaration[table][column] = declaration[table][column] | line if is_added else line
    prepared_or_refused(declaration, plain_tables())


@given(key=st.sampled_from(list(TOP)), data=st.data())
@BOUNDED
def test_any_key(key: str, data: st.DataObject) -> None:
    prepared_or_refused(copy.deepcopy(DECLARATION) | {key: data.draw(TOP[key])}, plain_tables())


@given(place=st.sampled_from(PLACES), kind=st.sampled_from(list(CELLS)), line=LINES, data=st.data())
@BOUNDED
def test_any_column(place: tuple[str, str], kind: str, line: dict[str, Any], data: st.DataObject) -> None:
    table, column = place
    declaration, tables = copy.deepcopy(DECLARATION), plain_tables()
    declaration[table][column] |= line
    rows = tables[table].num_rows
    few = data.draw(st.lists(st.none() | CELLS[kind], min_size=1, max_size=6))
    values = pa.array((few * rows)[:rows], TYPES[kind])
    position = tables[table].column_names.index(column)
    tables[table] = tables[table].set_column(position, column, values)
    prepared_or_refused(declaration, tables)
