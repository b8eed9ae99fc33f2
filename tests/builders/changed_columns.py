"""Features of a world after somebody changed its columns and its people, in the training role's environment.

`python -m tests.builders.changed_columns FOLDER ID` changes a prepared data set, where training left its
features: a column of users and one of items is retyped, one of each is dropped and one added; there is a user
and an item more, of that id.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from contract import names
from contract.dataset import DATASET_FILE
from contract.features import FOLDER, SEEN_FILE, state_file, view_file

TEXT = {"role": "categorical", "dtype": "string"}
CHANGES = {
    "users": (names.USER_PROFILE, "user_age_bucket", "user_interests", "user_city"),
    "items": (names.ITEM_CATALOG, "item_price_usd", "item_brand", "item_colour"),
}
"""Of each table: its view, and the columns that are retyped, dropped and added."""


def change(folder: Path, new_id: int) -> None:
    """Changes the data set that is prepared in `folder`."""
    declared = yaml.safe_load((folder / DATASET_FILE).read_text())
    for table, (view, retyped, dropped, added) in CHANGES.items():
        del declared[table][dropped]
        declared[table] |= {retyped: TEXT, added: TEXT}
        file = folder / FOLDER / view_file(view)
        rows = pq.read_table(file)
        flag = rows[names.IS_AVAILABLE] if names.IS_AVAILABLE in rows.column_names else None
        names_left = [n for n in rows.column_names if n not in (dropped, names.IS_AVAILABLE)]
        changed = {n: rows[n] if n != retyped else rows[n].cast(pa.string()) for n in names_left}
        changed[added] = pa.array(["of the second day"] * len(rows))
        if flag is not None:
            changed[names.IS_AVAILABLE] = flag
        _write(pa.table(changed), file, new_id)
    (folder / DATASET_FILE).write_text(yaml.safe_dump(declared, sort_keys=False))
    activity = (names.USER_ACTIVITY, names.ITEM_ACTIVITY)
    for name in (*map(view_file, activity), *map(state_file, activity), SEEN_FILE):
        file = folder / FOLDER / name
        _write(pq.read_table(file), file, new_id)


def _write(rows: pa.Table, file: Path, new_id: int) -> None:
    """Writes rows with one more: the last one's, of another id."""
    frame = rows.to_pandas(integer_object_nulls=True)
    last = frame.tail(1).assign(**{frame.columns[0]: new_id})
    more = pd.concat([frame, last], ignore_index=True)
    pq.write_table(
        pa.Table.from_pandas(more, schema=rows.schema.remove_metadata(), preserve_index=False), file
    )


if __name__ == "__main__":
    change(Path(sys.argv[1]), int(sys.argv[2]))
