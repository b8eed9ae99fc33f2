"""Whatever a `dataset.yaml` and its tables hold: they are prepared, or refused in words."""

from __future__ import annotations

import copy
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.columns import Role
from contract.dataset import Dataset, DatasetError
from tests.builders.datasets import DECLARATION, own_tables, quiet
from training.data.files import RawTable
from training.data.prepared import Prepared, dataset_yaml, in_order, to_arrow, to_frame
from training.data.sources import catalog
from training.data.validate import as_table, validate

EXAMPLES = {"line": 800, "key": 400, "column": 800, "file": 40}
"""Per property: 2,000 in memory, and some by way of files."""
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "role": st.sampled_from([*map(str, Role), "thing", None, 3]),
    "dtype": st.sampled_from(["int64", "float32", "string", "bool", "timestamp", "text", 7, None]),
    "from": st.sampled_from(["user_id", "nothing", "", 5]),
    "vocabulary": st.integers(-1, 5),
    "max_length": st.integers(-1, 5),
    "description": st.text(max_size=3),
    "is_log": st.booleans(),
    "is_affinity": st.booleans(),
    "is_filterable": st.booleans(),
    "unit": st.sampled_from(["s", "ms", "us", "ns", "min"]),
    "format": st.sampled_from(["%Y", "%d/%m/%Y", "%", "%Q", "", "%z"]),
    "timezone": st.sampled_from(["UTC", "Europe/Oslo", "Mars", "", "../x"]),
    "separator": st.sampled_from(["|", "", "ab"]),
    "positive": st.sampled_from([">= 4", "> 0", "no", [], [1], ["a", 2.5], 3, "== 1e400"]),
    "clip": st.booleans(),
    "weight": st.sampled_from([1, 2.5, 0, -1, "much", float("nan")]),
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
    "seen_labels": st.sampled_from(["any", "none", "is_bought", "nothing"]),
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
    "vector": st.lists(st.floats(-1e20, 1e20), min_size=2, max_size=2),
    "decimal": st.decimals(-(10**30), 10**30, places=4),
    "binary": st.binary(max_size=4),
    "time64": st.times(),
    "duration": st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
    "large_string": st.sampled_from(["1", "2.5", "yes", "NaN", " ", "2025-03-01", "10/03/2025 12:00"]),
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
    "vector": pa.list_(pa.float32(), 2),
    "decimal": pa.decimal128(38, 4),
    "binary": pa.binary(),
    "time64": pa.time64("us"),
    "duration": pa.duration("us"),
    "large_string": pa.large_string(),
    "struct": pa.struct([("a", pa.int64())]),
    "null": pa.null(),
}
PLACES = [(table, column) for table in ("users", "items", "interactions") for column in DECLARATION[table]]
PLAIN = {name: as_table(frame) for name, frame in own_tables().items()}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
    )


def with_column(table: str, column: str, values: pa.Array, *, is_text: bool = False) -> dict[str, RawTable]:
    data = PLAIN[table].data
    changed = data.set_column(data.column_names.index(column), column, values)
    return PLAIN | {table: RawTable(changed, is_text)}


def is_in_words(said: str) -> bool:
    return all(len(line) > 20 for line in said.splitlines())


def accepted_or_refused(declaration: Any, tables: dict[str, RawTable]) -> None:
    """Fails with whatever is not an error of ours, one without words, or what cannot be stored or split."""
    try:
        dataset = Dataset.of(declaration, Path("dataset.yaml"))
        checked = validate(dataset, tables, NOW)
    except DatasetError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert is_in_words(refused), refused
        return
    stored, frames = checked.dataset, checked.frames
    again = Dataset.of(yaml.safe_load(dataset_yaml(stored)), Path("dataset.yaml"))
    assert again == stored
    for table, columns in again.tables.items():
        assert to_frame(to_arrow(frames[table], columns), columns).shape == frames[table][[*columns]].shape
    prepared = Prepared(Path(), stored, **in_order(frames, stored))
    at = prepared.interactions[stored.timestamp]
    assert (at.isna() | (at < prepared.split.train_until)).any()


@given(place=st.sampled_from(PLACES), line=LINES, is_added=st.booleans())
@bounded(EXAMPLES["line"])
def test_any_line(place: tuple[str, str], line: dict[str, Any], is_added: bool) -> None:
    declaration = copy.deepcopy(DECLARATION)
    table, column = place
    declaration[table][column] = declaration[table][column] | line if is_added else line
    accepted_or_refused(declaration, PLAIN)


@given(key=st.sampled_from(list(TOP)), data=st.data())
@bounded(EXAMPLES["key"])
def test_any_key(key: str, data: st.DataObject) -> None:
    accepted_or_refused(copy.deepcopy(DECLARATION) | {key: data.draw(TOP[key])}, PLAIN)


@given(
    place=st.sampled_from(PLACES),
    kind=st.sampled_from(list(CELLS)),
    line=LINES,
    is_text=st.booleans(),
    data=st.data(),
)
@bounded(EXAMPLES["column"])
def test_any_column(
    place: tuple[str, str], kind: str, line: dict[str, Any], is_text: bool, data: st.DataObject
) -> None:
    table, column = place
    declaration = copy.deepcopy(DECLARATION)
    declaration[table][column] |= line
    rows = PLAIN[table].data.num_rows
    few = data.draw(st.lists(st.none() | CELLS[kind], min_size=1, max_size=6))
    values = pa.array((few * rows)[:rows], TYPES[kind])
    # A CSV's columns are text, all of them.
    accepted_or_refused(declaration, with_column(table, column, values, is_text=is_text and kind == "string"))


@given(place=st.sampled_from(PLACES), line=LINES, kind=st.sampled_from(list(CELLS)), data=st.data())
@bounded(EXAMPLES["file"])
def test_any_file(place: tuple[str, str], line: dict[str, Any], kind: str, data: st.DataObject) -> None:
    table, column = place
    declaration = copy.deepcopy(DECLARATION)
    declaration[table][column] |= line
    rows = PLAIN[table].data.num_rows
    values = pa.array((data.draw(st.lists(CELLS[kind], min_size=1, max_size=4)) * rows)[:rows], TYPES[kind])
    tables = with_column(table, column, values)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, raw in tables.items():
            pq.write_table(raw.data, folder / f"{part}.parquet")
        (folder / "dataset.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False, allow_unicode=True))
        try:
            catalog.prepare(str(folder), folder, folder / "var", say=quiet)
        except DatasetError as error:
            refused = str(error)
        else:
            refused = ""
            again = catalog.prepare(str(folder), folder, folder / "var", say=quiet)
            assert len(again.interactions)
        assert is_in_words(refused), refused
        assert (folder / "var").exists() == (not refused)
