"""The archive of events, as rows of interactions: what was served live is what is trained on next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from contract import names
from contract.dataset import Dataset
from contract.event_archive import archive_files, events_folder, horizon_of, read_archive
from contract.ids import IdDtype, number_of
from training.data.prepared import to_arrow, to_frame
from training.data.validate import Checked

Say = Callable[[str], None]


def event_files(var_dir: Path, name: str) -> list[Path]:
    """Lists the files of the archive of a data set's events."""
    return archive_files(events_folder(var_dir, name))


def with_live_events(checked: Checked, var_dir: Path, say: Say) -> Checked:
    """Adds the archived events to the interactions of a data set, and a row of nulls for each of their users
    who has none. Events of items that the items table does not have are left out.

    Where the data set stands still at an instant, by `as_of` or `split`, and there are later events, it goes
    on: features are as of now, and the parts are those of a data set that does not say.
    """
    dataset, frames = checked.dataset, checked.frames
    archive = read_archive(events_folder(var_dir, dataset.name))
    if archive is None:
        return checked
    rows, users = _interactions(archive, dataset)
    is_known = rows[names.ITEM_ID].isin(frames["items"][names.ITEM_ID]).to_numpy()
    rows = rows[is_known]
    if left := int(np.count_nonzero(~is_known)):
        say(f"events left out, as their items are not in the items table: {left:,}")
    if rows.empty:
        return checked
    new = sorted({*rows[names.USER_ID]} - {*frames["users"][names.USER_ID]})
    say(f"events from the archive: {len(rows):,}, users of theirs that are new: {len(new):,}")
    interactions = pd.concat([frames["interactions"], rows], ignore_index=True)
    return replace(
        checked,
        dataset=_going_on(dataset, rows[dataset.timestamp].max(), say),
        frames=frames
        | {
            "interactions": interactions.astype(frames["interactions"].dtypes),
            "users": _with_users(frames["users"], new, dataset),
        },
        users={**checked.users, **{number: users[number] for number in new if number in users}},
        horizon=horizon_of(dataset, archive),
    )


def _interactions(archive: pa.Table, dataset: Dataset) -> tuple[pd.DataFrame, dict[int, str]]:
    """Gives the archive's rows as a frame of interactions, and the texts of users whose ids are text."""
    columns, length = dataset.interactions, len(archive)
    own = archive[names.USER_ID].to_pylist()
    arrays = {
        names.USER_ID: _numbers(own, dataset.user_id_dtype),
        names.ITEM_ID: _numbers(archive[names.ITEM_ID].to_pylist(), dataset.item_id_dtype),
    }
    given = {
        name: arrays[name]
        if name in arrays
        else archive[name]
        if name in archive.column_names
        else pa.nulls(length, pa.int64())
        for name in columns
    }
    frame = to_frame(pa.table(given), columns)
    texts = dict(zip(arrays[names.USER_ID].to_pylist(), own, strict=True))
    return frame, texts if dataset.user_id_dtype == "string" else {}


def _numbers(own: list[int | str], dtype: IdDtype) -> pa.Array:
    return pa.array([number_of(one, dtype) for one in own], pa.int64())


def _with_users(users: pd.DataFrame, new: list[int], dataset: Dataset) -> pd.DataFrame:
    if not new:
        return users
    empty = to_arrow(users.iloc[:0], dataset.users).schema
    columns = [pa.array(new, pa.int64()) if name == names.USER_ID else None for name in empty.names]
    nulls = [
        pa.nulls(len(new), one.type) if column is None else column
        for one, column in zip(empty, columns, strict=True)
    ]
    rows = to_frame(pa.table(nulls, schema=empty), dataset.users)
    return pd.concat([users, rows], ignore_index=True).astype(users.dtypes)


def _going_on(dataset: Dataset, last: pd.Timestamp, say: Say) -> Dataset:
    ends = [dataset.as_of, dataset.split.test_until if dataset.split else None]
    still = [end for end in ends if end is not None and end < last]
    if not still:
        return dataset
    say(f"there are events after {min(still)}, where dataset.yaml ends: features are as of now")
    return dataset.model_copy(update={"as_of": None, "split": None})
