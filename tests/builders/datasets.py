"""Builds small data sets: a synthetic world of a few hundred users, and a folder as a user would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from training.data.prepared import Prepared
from training.data.sources import catalog
from training.data.sources.synthetic import Size

SMALL = Size(users=300, items=120, days=12, interactions=6_000)


def quiet(_: str) -> None:
    """Says nothing."""


def small_world(var_dir: Path, size: Size = SMALL) -> Prepared:
    """Prepares a synthetic world of 300 users."""
    return catalog.prepare("synthetic", var_dir / "nowhere", var_dir, size=size, say=quiet)


DECLARATION: dict[str, Any] = {
    "name": "books",
    "users": {"user_id": {"role": "id"}, "user_city": {"role": "categorical", "dtype": "string"}},
    "items": {
        "item_id": {"role": "id"},
        "item_title": {"role": "display_name"},
        "item_price_usd": {"role": "numeric"},
        "item_topics": {"role": "list", "dtype": "string", "is_affinity": True},
        "item_is_in_stock": {"role": "availability"},
    },
    "interactions": {
        "user_id": {"role": "id"},
        "item_id": {"role": "id"},
        "timestamp": {"role": "timestamp"},
        "is_bought": {"role": "label"},
        "context_shop": {"role": "context"},
    },
}


def own_tables(rows: int = 240) -> dict[str, pd.DataFrame]:
    """Makes three tables that pass validation: 20 users, 15 items, and interactions in order of time."""
    order = range(rows)
    return {
        "users": pd.DataFrame(
            {"user_id": range(20), "user_city": ["Oslo" if i % 3 else None for i in range(20)]}
        ),
        "items": pd.DataFrame(
            {
                "item_id": range(100, 115),
                "item_title": [f"Book {i}" for i in range(15)],
                "item_price_usd": [None if i == 3 else i + 0.5 for i in range(15)],
                "item_topics": [["sea", "ships"][: i % 3] for i in range(15)],
                "item_is_in_stock": [i != 4 for i in range(15)],
            }
        ),
        "interactions": pd.DataFrame(
            {
                "user_id": [i % 20 for i in order],
                "item_id": [100 + (i * 7 + i // 20) % 15 for i in order],
                "timestamp": pd.date_range("2025-03-01", periods=rows, freq="H", tz="UTC"),
                "is_bought": [int(i % 4 == 0) for i in order],
                "context_shop": [None if i % 10 == 0 else i % 3 for i in order],
            }
        ),
    }


def write_own(
    folder: Path, tables: dict[str, pd.DataFrame] | None = None, declaration: dict[str, Any] | None = None
) -> Path:
    """Writes a folder of one's own: the tables that are given, and `dataset.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (own_tables() if tables is None else tables).items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(declaration or DECLARATION, sort_keys=False))
    return folder


OWN_USERS = [f"Ødegård {i}@example.org/{{{i}}}" for i in range(19)] + ["\u05d0'\"*:|\x00 \U0001f600"]
"""Text ids that hold what keys, queries and paths give a meaning to."""
TEXT_IDS: dict[str, Any] = {
    table: columns
    | {key: columns[key] | {"dtype": "string"} for key in ("user_id", "item_id") if key in columns}
    if isinstance(columns, dict)
    else columns
    for table, columns in DECLARATION.items()
}
"""`DECLARATION` with ids that are text."""


def text_tables() -> dict[str, pd.DataFrame]:
    """Makes `own_tables` with ids that are text, a user's `OWN_USERS[i]`, an item's `B00100`."""
    tables = own_tables()
    for frame in tables.values():
        if "user_id" in frame:
            frame["user_id"] = frame["user_id"].map(OWN_USERS.__getitem__)
        if "item_id" in frame:
            frame["item_id"] = frame["item_id"].map("B00{}".format)
    return tables


def assert_same(one: Prepared, other: Prepared) -> None:
    """Holds the three tables of one data set against those of another."""
    for table in ("users", "items", "interactions"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table))
