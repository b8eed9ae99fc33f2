"""`python -m training init`: from somebody's files to a `dataset.yaml` with which `make data` passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from contract.dataset import Dataset, DatasetError
from tests.builders.datasets import own_tables, quiet, write_own
from training.__main__ import main
from training.data.first_draft import write_draft
from training.data.sources import catalog


def shop(folder: Path) -> Path:
    """Files as a shop would export them: other names, text for time, a log that is out of order."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    rows = 400
    at = pd.Timestamp("2025-02-27 20:00") + pd.to_timedelta(rng.permutation(rows), unit="h")
    orders = pd.DataFrame(
        {
            "Customer ID": rng.integers(1, 41, rows),
            "Product ID": rng.integers(500, 530, rows),
            "Order Date": at.strftime("%d/%m/%Y %H:%M"),
            "Stars": rng.integers(1, 6, rows),
        }
    )
    products = pd.DataFrame(
        {
            "Product ID": range(500, 530),
            "Title": [f"Thing {i}" for i in range(30)],
            "Tags": ["red|round" if i % 2 else "blue" for i in range(30)],
            "Price (EUR)": rng.random(30).round(2) * 40,
            "In stock": ["yes" if i % 5 else "no" for i in range(30)],
            "Picture URL": [f"pictures/{i}" for i in range(30)],
        }
    )
    orders.to_csv(folder / "orders.csv", index=False)
    products.to_csv(folder / "products.csv", index=False, sep=";")
    return folder


def test_a_draft_is_a_declaration_with_which_the_data_is_prepared(tmp_path: Path) -> None:
    folder = shop(tmp_path / "shop")
    file, _ = write_draft(folder)
    draft = yaml.safe_load(file.read_text())
    assert draft["items"]["item_tags"] == {
        "role": "list",
        "dtype": "string",
        "separator": "|",
        "from": "Tags",
    }
    assert draft["items"]["item_title"]["role"] == "display_name"
    assert draft["items"]["item_in_stock"]["role"] == "availability"
    assert draft["interactions"]["timestamp"]["format"] == "%d/%m/%Y %H:%M"
    assert draft["interactions"]["is_stars"]["positive"].startswith(">= ")
    prepared = catalog.prepare(str(folder), folder, tmp_path / "var", say=quiet)
    assert (len(prepared.items), len(prepared.interactions)) == (30, 400)
    assert prepared.interactions["timestamp"].is_monotonic_increasing
    assert list(prepared.items["item_tags"][1]) == ["red", "round"]
    assert 0 < prepared.interactions["is_stars"].mean() < 1


def test_kinds_of_events_codes_and_a_title_that_reads_as_a_number_are_understood(tmp_path: Path) -> None:
    folder = tmp_path / "clicks"
    folder.mkdir()
    rows = 200
    kind = np.arange(rows) % 9
    clicks = pd.DataFrame(
        {
            "visitorid": [f"v{i % 11}" for i in range(rows)],
            "itemid": [i % 20 for i in range(rows)],
            "timestamp": [1_746_230_480_000 + i * 60_000 for i in range(rows)],
            "event": np.where(kind == 1, "transaction", np.where(kind == 2, "addtocart", "view")),
        }
    )
    items = pd.DataFrame(
        {
            "itemid": range(20),
            "item_title": ["Infinity", *(f"Thing {i}" for i in range(19))],
            "categoryid": [i * 7 for i in range(20)],
        }
    )
    clicks.to_csv(folder / "events.csv", index=False)
    items.to_csv(folder / "items.csv", index=False)
    draft = yaml.safe_load(write_draft(folder)[0].read_text())
    label = draft["interactions"]["is_event"]
    assert label == {"role": "label", "positive": ["addtocart", "transaction"], "from": "event"}
    assert draft["items"]["item_title"]["role"] == "display_name"
    assert draft["items"]["item_categoryid"]["role"] == "categorical"
    prepared = catalog.prepare(str(folder), folder, tmp_path / "var", say=quiet)
    assert prepared.interactions["is_event"].sum() == (clicks["event"] != "view").sum()


def drafted(folder: Path, **tables: dict[str, list[object]]) -> dict[str, dict[str, dict[str, object]]]:
    """Writes tables as CSV, gives the draft that is made of them."""
    folder.mkdir()
    for name, columns in tables.items():
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False)
    draft: dict[str, dict[str, dict[str, object]]] = yaml.safe_load(write_draft(folder)[0].read_text())
    return draft


USERS = [
    "user",
    "username",
    "user_name",
    "User Name",
    "userUUID",
    "login",
    "member_slug",
    "customer email",
    "uid",
]
ITEMS = [
    "item", "movie_slug", "item_slug", "productSlug", "sku", "product_sku", "isbn", "ISBN-13", "asin", "ean",
    "upc code", "book_isbn", "movie_title", "itemDescription", "track_uuid",
]  # fmt: skip


@pytest.mark.parametrize(
    ("user", "item"), [*((u, "item_id") for u in USERS), *(("user_id", i) for i in ITEMS)]
)
def test_a_log_is_found_by_what_people_call_their_ids(user: str, item: str, tmp_path: Path) -> None:
    log: dict[str, list[object]] = {"rating": [4] * 40, user: [f"u{i % 9}" for i in range(40)]}
    log[item] = [f"x{i % 7}" for i in range(40)]
    draft = drafted(tmp_path / "some", ratings=log)
    assert draft["interactions"]["user_id"].get("from", "user_id") == user
    assert draft["interactions"]["item_id"].get("from", "item_id") == item
    assert draft["users"]["user_id"]["dtype"] == draft["items"]["item_id"]["dtype"] == "string"


@pytest.mark.parametrize(
    ("columns", "user", "item"),
    [
        (["user_name", "user_id", "movie_title", "movie_id"], "user_id", "movie_id"),
        (["username", "customer_no", "product_name", "sku"], "customer_no", "sku"),
        (["movie", "movie_slug", "user name", "user"], "user", "movie_slug"),
        (["itemDescription", "item", "login", "userid"], "userid", "item"),
        (["isbn", "book_id", "member_email", "member"], "member", "book_id"),
    ],
)
def test_a_name_is_no_id_where_there_is_one(columns: list[str], user: str, item: str, tmp_path: Path) -> None:
    draft = drafted(
        tmp_path / "some", ratings={name: [f"{name} {i % 7}" for i in range(40)] for name in columns}
    )
    assert draft["interactions"]["user_id"].get("from", "user_id") == user
    assert draft["interactions"]["item_id"]["from"] == item


def test_tables_are_joined_by_what_the_log_has(tmp_path: Path) -> None:
    slugs, people, rows = [f"film-{i}" for i in range(12)], [f"u{i}" for i in range(11)], range(132)
    draft = drafted(
        tmp_path / "films",
        ratings={"username": [people[i % 11] for i in rows], "movie_slug": [slugs[i % 12] for i in rows]},
        movies={"movie_id": list(range(12)), "name": [f"Film {i}" for i in range(12)], "slug": [*slugs]},
        users={"city": ["Oslo"] * 11, "name": [*people]},
    )
    assert draft["items"]["item_id"] == {"role": "id", "dtype": "string", "from": "slug"}
    assert draft["items"]["item_name"]["role"] == "display_name"
    assert draft["users"]["user_id"] == {"role": "id", "dtype": "string", "from": "name"}
    folder = tmp_path / "films"
    prepared = catalog.prepare(str(folder), folder, tmp_path / "var", say=quiet)
    assert (len(prepared.users), len(prepared.items)) == (11, 12)


@pytest.mark.parametrize(
    ("of_log", "of_items", "expected"),
    [
        ("movie_id", ["id", "Movie ID", "name"], "Movie ID"),
        ("movie_id", ["name", "id"], "id"),
        ("movie_id", ["name", "number"], "name"),  # the first, where nothing tells
        ("movie_slug", ["movie_id", "Movie Slug", "slug"], "Movie Slug"),
        ("movie_title", ["movie_id", "title"], "title"),
        ("asin", ["sku", "product_asin"], "product_asin"),
    ],
)
def test_the_key_of_a_table_is_the_column_that_the_log_means(
    of_log: str, of_items: list[str], expected: str, tmp_path: Path
) -> None:
    draft = drafted(
        tmp_path / "some",
        ratings={"user_id": [i % 9 for i in range(40)], of_log: [f"x{i % 7}" for i in range(40)]},
        items={name: [f"x{i}" for i in range(7)] for name in of_items},
    )
    assert draft["items"]["item_id"]["from"] == expected


def test_no_name_stands_twice(tmp_path: Path) -> None:
    draft = drafted(
        tmp_path / "some",
        orders={
            "user_id": [i % 9 for i in range(40)],
            "movie_id": [i % 7 for i in range(40)],
            "Order Date": ["2025-03-01"] * 40,
            "Shipping Date": ["2025-03-02"] * 40,
        },
        items={"id": [f"x{i}" for i in range(7)], "movie_id": list(range(7))},
    )
    assert draft["items"]["item_id"]["from"] == "movie_id"
    assert draft["items"]["item_id_given"]["from"] == "id"
    assert draft["interactions"]["timestamp"]["from"] == "Order Date"
    assert "not used: Shipping Date" in (tmp_path / "some" / "dataset.yaml").read_text()


def test_every_line_says_why_and_what_was_not_used_is_named(tmp_path: Path) -> None:
    file, _ = write_draft(shop(tmp_path / "shop"))
    lines = [line for line in file.read_text().splitlines() if line.startswith("  ") and "role" in line]
    assert all("  # " in line for line in lines)
    assert "# not used: Picture URL (such as pictures/0" in file.read_text()


def test_what_is_to_be_decided_is_told(tmp_path: Path) -> None:
    tables = own_tables()
    folder = tmp_path / "plays"
    folder.mkdir()
    tables["interactions"][["user_id", "item_id"]].to_csv(folder / "plays.csv", index=False)
    _, open_ends = write_draft(folder)
    assert any("counts as chosen" in line for line in open_ends)


def test_a_declaration_that_is_there_stays(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books")
    before = (folder / "dataset.yaml").read_text()
    with pytest.raises(DatasetError, match="is there already"):
        write_draft(folder)
    assert (folder / "dataset.yaml").read_text() == before


@pytest.mark.parametrize(
    ("files", "expected"),
    [({}, "no table in it"), ({"notes.csv": "a,b\n1,2\n"}, "no file has a column of users and one of items")],
)
def test_a_folder_without_a_log_is_refused_in_words(
    files: dict[str, str], expected: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=expected):
        write_draft(tmp_path)
    assert not (tmp_path / "dataset.yaml").exists()


def test_the_command_says_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shop(tmp_path / "shop")
    assert main(["init", str(folder)]) == 0
    assert "make data DATA=" in capsys.readouterr().out
    assert main(["init", str(folder)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_whatever_the_columns_hold_a_draft_is_written_that_can_be_read(tmp_path: Path) -> None:
    rows = 240
    odd: dict[str, pa.Array] = {
        "rating": pa.array([float("inf")] * rows),
        "when it was": pa.array([-62_135_596_800_000_000] * rows, pa.timestamp("us")),
        "name: y": pa.array(["{a: 1}", "- x", "# y", "'"] * (rows // 4)),
        "tags": pa.array([["a", None]] * rows),
        "a map": pa.array([[("a", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        "a struct": pa.array([{"a": 1}] * rows),
        "a day": pa.array([1] * rows, pa.date32()),
        "an hour": pa.array([1] * rows, pa.time32("s")),
        "a while": pa.array([1] * rows, pa.duration("s")),
        "a picture": pa.array([b"\xff"] * rows),
        "a vector": pa.array([[0.5, 1.5]] * rows),
        "nothing": pa.nulls(rows),
        "": pa.array(["x"] * rows),
    }
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, frame in own_tables().items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        for column, values in odd.items():
            table = table.append_column(column, values.slice(0, len(frame)))
        pq.write_table(table, folder / f"{name}.parquet")
    file, _ = write_draft(folder)
    dataset = Dataset.load(file)
    assert dataset.items["item_a_vector"].role == "embedding"
    assert dataset.items["item_tags"].role == "list"
    assert not {"item_a_day", "item_an_hour", "item_a_struct", "item_nothing"} & set(dataset.items)
    assert "not used: nothing" in file.read_text()
