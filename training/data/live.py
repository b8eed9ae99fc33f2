"""What came live is prepared as well: items that were put or taken out, users who were forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from contract import names
from contract.archive import forget_rows, number_of_any
from contract.batch_files import MADE_AT, slate_files
from contract.dataset import Dataset, DatasetError
from contract.event_archive import ACCEPTED_AT, archive_files, events_folder
from contract.ids import OwnId
from contract.items import Row
from contract.live_catalogue import LiveState, catalogue_folder, change_files, digest_of_user, read_changes
from contract.live_files import live_folder
from contract.shown import shown_folder
from contract.whole_file import drop_abandoned
from training.data.prepared import prepared_schema, to_frame
from training.data.validate import Checked

Say = Callable[[str], None]
SHOWN_AT = "at"


def live_files(var_dir: Path, name: str) -> list[Path]:
    """Lists the files that preparing a data set reads beside its own."""
    return change_files(catalogue_folder(var_dir, name))


def with_live_changes(checked: Checked, var_dir: Path, say: Say) -> Checked:
    """Gives a data set's tables as they are with what changed live.

    Raises:
        DatasetError: a row that was put does not fit the columns any more.
    """
    dataset = checked.dataset
    state = LiveState.of(read_changes(catalogue_folder(var_dir, dataset.name)))
    frames, users = dict(checked.frames), checked.users
    if state.items:
        frames["items"] = _items(frames["items"], state.items, dataset)
        put = sum(row is not None for row in state.items.values())
        say(f"items put live: {put:,}, taken out: {len(state.items) - put:,}")
    if state.forgotten:
        gone = _forgotten(frames, state)
        frames["interactions"] = _interactions(frames["interactions"], gone, dataset)
        back = set(gone) & set(frames["interactions"][names.USER_ID].tolist())
        frames["users"] = _users(frames["users"], gone, back)
        users = {number: text for number, text in users.items() if number not in gone or number in back}
        say(f"users forgotten: {len(state.forgotten):,}")
    return replace(checked, frames=frames, users=users)


def _items(frame: pd.DataFrame, items: dict[int, Row | None], dataset: Dataset) -> pd.DataFrame:
    rows = [
        {**row, names.ITEM_ID: number, names.OWN_ITEM_ID: str(row[names.ITEM_ID])}
        for number, row in items.items()
        if row is not None
    ]
    schema = prepared_schema(dataset, "items")
    values = [{name: row.get(name) for name in schema.names} for row in rows]
    try:
        put = to_frame(pa.Table.from_pylist(values, schema=schema), dataset.tables["items"])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DatasetError(
            f"an item that was put live does not fit the columns of dataset.yaml any more ({error}); put it "
            "again, or take it out"
        ) from None
    remaining = frame[~frame[names.ITEM_ID].isin(list(items))]
    return pd.concat([remaining, put[remaining.columns]], ignore_index=True) if len(put) else remaining


def _forgotten(frames: dict[str, pd.DataFrame], state: LiveState) -> dict[int, int]:
    """Gives the numbers of users who were forgotten, and until when, Unix time in milliseconds."""
    ids = [frames[table][names.USER_ID].to_numpy(np.int64) for table in ("users", "interactions")]
    found = ((user, digest_of_user(user)) for user in np.unique(np.concatenate(ids)).tolist())
    return {user: state.forgotten[digest] for user, digest in found if digest in state.forgotten}


def _users(frame: pd.DataFrame, gone: dict[int, int], back: set[int]) -> pd.DataFrame:
    """Leaves out who was forgotten; of who came back since then, the number alone is known."""
    remaining = frame[~frame[names.USER_ID].isin(gone)]
    if not back:
        return remaining.reset_index(drop=True)
    anew = remaining.iloc[:0].reindex(range(len(back))).assign(**{names.USER_ID: sorted(back)})
    return pd.concat([remaining, anew.astype(remaining.dtypes.to_dict())], ignore_index=True)


def _interactions(frame: pd.DataFrame, gone: dict[int, int], dataset: Dataset) -> pd.DataFrame:
    """Leaves out what users did before they were forgotten."""
    until = pd.to_datetime(frame[names.USER_ID].map(gone), unit="ms", utc=True)
    at = frame[dataset.timestamp]
    is_gone = until.notna() & (at.isna() | (at <= until))
    return frame[~is_gone].reset_index(drop=True)


def forget_archived(var_dir: Path, name: str) -> int:
    """Writes each file of a data set's archive, and of its stored slates, anew that holds rows of users who
    were forgotten, without them; gives the number of rows that went. What was left of files that were being
    written goes too, as it may hold rows of theirs.

    Raises:
        DatasetError: one cannot be written.
    """
    forgotten = LiveState.of(read_changes(catalogue_folder(var_dir, name))).forgotten
    if not forgotten:
        return 0

    def is_gone(own: OwnId, at: datetime | int) -> bool:
        until_ms = forgotten.get(digest_of_user(number_of_any(own)))
        at_ms = at if isinstance(at, int) else at.timestamp() * 1000
        return until_ms is not None and at_ms <= until_ms

    drop_abandoned(live_folder(var_dir, name))
    files = (
        (archive_files(events_folder(var_dir, name)), ACCEPTED_AT),
        (archive_files(shown_folder(var_dir, name)), SHOWN_AT),
        (slate_files(var_dir, name), MADE_AT),
    )
    return sum(forget_rows(some, [names.USER_ID, clock], is_gone) for some, clock in files)
