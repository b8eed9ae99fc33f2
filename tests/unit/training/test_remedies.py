"""Every message ends with a remedy, and who follows it to the letter gets on."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from contract.dataset import Dataset, DatasetError
from tests.builders.datasets import DECLARATION, own_tables, quiet, write_own
from training.data.sources import catalog

ROUNDS = 4
"""Messages that may come one after another: what hides behind a problem is told once that is gone."""
OF_A_FILE = re.compile(r"(\w+)\.parquet: column (.+?) (?:is|was|lies|holds|repeats|names|has|goes|cannot)\b")
OF_A_COUNT = re.compile(r"(\w+)\.parquet: column (.+?): \d+ rows")
OF_A_LINE = re.compile(r"dataset\.yaml: (?:dataset: )?(users|items|interactions)[.:] ?(\w[^:]*)?")


@dataclass
class Folder:
    """What somebody has: three tables and a declaration; and where the last message pointed."""

    tables: dict[str, pd.DataFrame]
    declaration: dict[str, Any]
    table: str = ""
    column: str = ""

    @property
    def line(self) -> dict[str, Any]:
        line: dict[str, Any] = self.declaration[self.table][self.column]
        return line

    @property
    def frame(self) -> pd.DataFrame:
        return self.tables[self.table]

    @property
    def source(self) -> str:
        return str(self.line.get("from", self.column))


def add(folder: Folder, said: re.Match[str]) -> None:
    """What stands in backticks: a key of the column's line, a whole line, or a key of the file."""
    value = yaml.safe_load(said[1])
    if set(value) <= set(Dataset.model_fields) - {"name"}:
        folder.declaration |= value
    elif said[1].startswith("{"):
        folder.declaration[folder.table][folder.column] = value
    else:
        folder.declaration[folder.table][folder.column] = folder.line | value


def rename(folder: Folder, said: re.Match[str]) -> None:
    folder.declaration[folder.table][said[1]] = folder.line | {"from": said[2]}
    del folder.declaration[folder.table][folder.column]


def move_check(folder: Folder, said: re.Match[str]) -> None:
    folder.declaration.setdefault("checks", {})[said[2]] = 1 if said[1] == "lower" else 1.0


def take_key_out(folder: Folder, said: re.Match[str]) -> None:
    folder.declaration.pop(said[1], None)  # two lines may say the same


def take_out_of_line(folder: Folder, said: re.Match[str]) -> None:
    for key in said[1].split(", "):
        del folder.line[key]


def set_dtype(folder: Folder, said: re.Match[str]) -> None:
    folder.line["dtype"] = said[1]


def set_role(folder: Folder, said: re.Match[str]) -> None:
    wanted = next(role for role in said[1].split(", ") if role not in ("id", "label"))
    folder.declaration[folder.table][folder.column] = {"role": wanted}


def keep_one(folder: Folder, _: re.Match[str]) -> None:
    folder.tables[folder.table] = folder.frame.drop_duplicates(folder.source)


def set_history(folder: Folder, _: re.Match[str]) -> None:
    folder.declaration["history_until"] = folder.frame[folder.source].min().isoformat()


def sort(folder: Folder, _: re.Match[str]) -> None:
    folder.tables[folder.table] = folder.frame.sort_values(folder.source, na_position="first")


def write_strings(folder: Folder, _: re.Match[str]) -> None:
    values = folder.frame[folder.source]
    folder.frame[folder.source] = values.astype("string").astype(object).where(values.notna(), None)
    folder.line["dtype"] = "string"


def drop(folder: Folder, _: re.Match[str]) -> None:
    values = folder.frame[folder.source]
    wrong = values > pd.Timestamp("2026-06-01", tz="UTC") if values.dtype.kind == "M" else values.isna()
    folder.tables[folder.table] = folder.frame[~wrong]


def drop_strangers(folder: Folder, _: re.Match[str]) -> None:
    known = folder.tables[f"{folder.column.removesuffix('_id')}s"][folder.column]
    folder.tables[folder.table] = folder.frame[folder.frame[folder.column].isin(known)]


def take_line_out(folder: Folder, _: re.Match[str]) -> None:
    folder.declaration[folder.table].pop(folder.column, None)


def write_lists(folder: Folder, _: re.Match[str]) -> None:
    frame = folder.tables[folder.table]
    frame[folder.column] = frame[folder.column].map(lambda text: json.dumps(re.findall(r"\w+", text)))


FOLLOW: list[tuple[str, Callable[[Folder, re.Match[str]], None]]] = [
    (r"(?:rename it to|call it) ([^\s,]+), and .*add `from: ([^`]+)`", rename),
    (r"`(\{?\w+: [^`]+)`", add),
    (r"drop the interactions", drop_strangers),
    (r"(lower|raise) checks\.(\w+)", move_check),
    (r"write dtype: (\w+)", set_dtype),
    (r"take the (dtype) out", take_out_of_line),
    (r": ([\w, ]+) does not go with role.*take it out of the line", take_out_of_line),
    (r": ([\w, ]+) is for columns of items; take it out", take_out_of_line),
    (r"take (\w+) out", take_key_out),
    (r"use one of ([\w, ]+)", set_role),
    (r"keep one row per id", keep_one),
    (r"set history_until", set_history),
    (r"sort the file", sort),
    (r"write JSON, such as|write a list of string", write_lists),
    (r"write them as strings and set dtype: string", write_strings),
    (r"drop them", drop),
    (r"take its line out", take_line_out),
]
"""What a remedy says, and what somebody does who reads it; the first that stands in a line is followed."""


def follow(folder: Folder, message: str) -> None:
    for line in message.splitlines():
        place = OF_A_FILE.search(line) or OF_A_COUNT.search(line) or OF_A_LINE.search(line)
        folder.table, folder.column = (place[1], place[2] or "") if place else ("", "")
        for own, keys in folder.declaration.get(folder.table, {}).items():
            if keys.get("from") == folder.column:
                folder.column = own
        found = [(act, said) for words, act in FOLLOW if (said := re.search(words, line))]
        assert found, f"no remedy that can be followed: {line}"
        act, said = found[0]
        act(folder, said)


def change(table: str, column: str, values: Any, **line: Any) -> Callable[[Folder], None]:
    def make(folder: Folder) -> None:
        frame = folder.tables[table]
        frame[column] = values(frame) if callable(values) else values
        folder.declaration[table].setdefault(column, {"role": "categorical"}).update(line)

    return make


def declare(table: str, column: str, line: Any) -> Callable[[Folder], None]:
    return lambda folder: folder.declaration[table].update({column: line})


def top(**keys: Any) -> Callable[[Folder], None]:
    return lambda folder: folder.declaration.update(keys)


def table(name: str, made: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Folder], None]:
    return lambda folder: folder.tables.update({name: made(folder.tables[name])})


def seconds(scale: int) -> Callable[[pd.DataFrame], Any]:
    return lambda frame: frame["timestamp"].astype("int64") // 10**9 * scale


AT, LABEL, PRICE = ("interactions", "timestamp"), ("interactions", "is_bought"), ("items", "item_price_usd")
CASES: dict[str, Callable[[Folder], None]] = {
    "epoch seconds": change(*AT, seconds(1)),
    "epoch milliseconds": change(*AT, seconds(1_000)),
    "seconds, declared as milliseconds": change(*AT, seconds(1), unit="ms"),
    "milliseconds, declared as seconds": change(*AT, seconds(1_000), unit="s"),
    "days written the European way": change(*AT, lambda f: f["timestamp"].dt.strftime("%d.%m.%Y %H:%M")),
    "days that may be read in two ways": change(*AT, lambda f: f["timestamp"].dt.strftime("%d/%m/%Y")),
    "a date of 1970 that counts as a number": change(*AT, lambda f: seconds(1)(f) // 10),
    "instants to come": change(*AT, lambda f: [*f["timestamp"][:-1], pd.Timestamp("2199-01-01", tz="UTC")]),
    "rows without a time": change(*AT, lambda f: [pd.NaT] * 5 + [*f["timestamp"][5:]]),
    "a column of times that is missing": table("interactions", lambda f: f.drop(columns="timestamp")),
    "ratings": change(*LABEL, lambda f: f["is_bought"] * 3 + 2),
    "ratings of halves": change(*LABEL, lambda _: [0.5, 1.0, 2.5, 4.5] * 60),
    "words": change(*LABEL, lambda f: f["is_bought"].map({0: "viewed", 1: "bought: all"})),
    "words, and a comparison": change(*LABEL, ["a", "b"] * 120, positive=">= 4"),
    "words, and none of them named": change(*LABEL, ["a", "b"] * 120, positive=["c"]),
    "numbers, and words named": change(*LABEL, [1, 5] * 120, positive=["buy"]),
    "nothing positive": change(*LABEL, 0, positive="> 5"),
    "a label of the last rows alone": change(*LABEL, [0] * 200 + [0, 1] * 20),
    "a label that is null": change(*LABEL, None),
    "positives of another label, late": lambda folder: (
        change("interactions", "is_read", [0] * 210 + [1, 0] * 15, role="label")(folder),
        top(retrieval_positives="is_read")(folder),
    )[0],
    "a list as text": change("items", "item_topics", lambda f: f["item_topics"].map("|".join)),
    "a list as numpy prints it": change(
        "items", "item_topics", lambda f: f["item_topics"].map(lambda some: str(np.array([*some, "x"])))
    ),
    "a list of numbers and texts": change("items", "item_topics", '[1, "a"]'),
    "a list of numbers, declared of texts": change("items", "item_topics", lambda _: [[1, 2]] * 15),
    "vectors as a list": change("items", "item_v", lambda _: [[0.5, 2.0]] * 15, role="list", dtype="float32"),
    "vectors, declared a list of texts": change("items", "item_topics", lambda _: [[0.5, 2.0]] * 15),
    "vectors as text": change("items", "item_v", "0.5, 2.0", role="embedding"),
    "texts, declared as vectors": change("items", "item_v", lambda _: [["a"]] * 15, role="embedding"),
    "a number beyond float32": change(*PRICE, [1e39, *range(14)]),
    "a vector beyond float32": change("items", "item_v", lambda _: [[1e39, 2.0]] * 15, role="embedding"),
    "text where numbers are declared": change(*PRICE, ["cheap", "dear", "free"] * 5),
    "numbers where text is declared": change("users", "user_city", lambda f: range(len(f))),
    "booleans where text is declared": change("users", "user_city", [True, False] * 10),
    "fractions where integers are declared": change("interactions", "context_shop", 0.5),
    "fractions of a category": change("users", "user_size", 0.5, role="categorical"),
    "words for what is on the shelf": change("items", "item_is_in_stock", "perhaps"),
    "a title that is a list": change("items", "item_title", lambda _: [["a"]] * 15),
    "a column of the wrong name": table("users", lambda f: f.rename(columns={"user_city": "user city"})),
    "a column that is not there": table("users", lambda f: f.drop(columns="user_city")),
    "a column of nulls": change("users", "user_city", None),
    "null ids": change("users", "user_id", lambda f: pd.array([None, *f["user_id"][1:]], "Int64")),
    "an id twice": table("items", lambda f: pd.concat([f, f.head(1)])),
    "strangers": change("interactions", "user_id", lambda f: [999] * 24 + [*f["user_id"][24:]]),
    "few users": top(checks={"min_users": 50}),
    "few rows": top(checks={"min_interactions": 500}),
    "large integers beside nulls": change(
        "users", "user_code", pd.array([None, *range(2**60, 2**60 + 19)], "Int64"), role="categorical"
    ),
    "a split outside of the data": top(
        split={"train_until": "2031-01-01", "validate_until": "2031-01-02", "test_until": "2031-01-03"}
    ),
    "a clock before the data": top(as_of="2020-01-01"),
    "a clock to come": top(as_of="2200-01-01"),
    "rows in disorder beside rows without a time": lambda folder: (
        change(*AT, lambda f: [pd.NaT, *f["timestamp"][1:200], *f["timestamp"][200:][::-1]])(folder),
        top(history_until="2025-03-01T00:00:00Z")(folder),
    )[0],
    "a history that ends too late": lambda folder: (
        change(*AT, lambda f: [pd.NaT, *f["timestamp"][1:]])(folder),
        top(history_until="2025-03-05T00:00:00Z")(folder),
    )[0],
    "a dtype that no list has": declare("items", "item_topics", {"role": "list", "dtype": "bool"}),
    "a dtype that no availability has": declare(
        "items", "item_is_in_stock", {"role": "availability", "dtype": "int64"}
    ),
    "a dtype that no category has": declare(
        "users", "user_city", {"role": "categorical", "dtype": "timestamp"}
    ),
    "a timestamp as text": declare("interactions", "timestamp", {"role": "timestamp", "dtype": "string"}),
    "keys that a role has not": declare(
        "items", "item_title", {"role": "display_name", "is_affinity": True, "clip": True}
    ),
    "a flag of items at a user": declare(
        "users", "user_city", {"role": "categorical", "dtype": "string", "is_filterable": True}
    ),
    "a role of another table": declare("users", "user_city", {"role": "context"}),
    "a name without its prefix": lambda folder: (
        change("users", "city", "Oslo", role="categorical", dtype="string")(folder)
    ),
    "a name that is taken": change("users", "user_vector", 1.0, role="numeric"),
    "a name that is a feature's": change("users", "user_item_topics_recent", 1.0, role="numeric"),
    "a split by time without a time": lambda folder: (
        folder.declaration["interactions"].pop("timestamp"),
        top(split={"train_until": "2025-03-05", "validate_until": "2025-03-06", "test_until": "2025-03-09"})(
            folder
        ),
    )[1],
}  # fmt: skip


@pytest.mark.parametrize("spoil", CASES.values(), ids=CASES.keys())
def test_a_remedy_that_is_followed_works(spoil: Callable[[Folder], None], tmp_path: Path) -> None:
    folder = Folder(own_tables(), copy.deepcopy(DECLARATION))
    spoil(folder)
    problems: list[str] = []
    for at in range(ROUNDS + 1):
        written = write_own(tmp_path / f"round-{at}", folder.tables, folder.declaration)
        try:
            found = catalog.prepare(str(written), written, written / "var", say=quiet)
        except DatasetError as error:
            problems.append(str(error))
            follow(folder, problems[-1])
        else:
            assert problems, "it was no problem"
            assert len(found.interactions) > 0
            return
    pytest.fail("\n".join(problems))
