"""Lists what every user has seen: the items that no slate may hold again."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from contract import names
from contract.dataset import ANY, NONE
from contract.features import SEEN_ITEM_IDS
from training.data.prepared import Prepared
from training.features.activity import event_times


def seen_items(prepared: Prepared, until: datetime, most: int) -> pa.Table:
    """Lists the items that each user has seen before an instant: newest first, each once, at most `most`.

    Gives `user_id` ascending and `seen_item_ids`; a user who has seen nothing has no row.
    """
    dataset = prepared.dataset
    rows = prepared.interactions[[names.USER_ID, names.ITEM_ID]].assign(
        at=event_times(dataset, prepared.interactions)
    )
    is_seen = rows["at"] < pd.Timestamp(until)
    if dataset.seen_labels == NONE:
        is_seen &= False
    elif dataset.seen_labels not in ("", ANY):
        is_seen &= (prepared.interactions[dataset.seen_labels] == 1).fillna(False).astype(bool)
    rows = rows[is_seen].iloc[::-1]  # ties keep file order: the last row is the newest
    rows = rows.sort_values([names.USER_ID, "at"], ascending=[True, False], kind="stable")
    rows = rows.drop_duplicates([names.USER_ID, names.ITEM_ID])
    rows = rows[rows.groupby(names.USER_ID).cumcount() < most]
    users, starts = np.unique(rows[names.USER_ID].to_numpy(np.int64), return_index=True)
    items = pa.array(rows[names.ITEM_ID].to_numpy(np.int64))
    offsets = pa.array(np.append(starts, len(rows)), pa.int32())
    return pa.table({names.USER_ID: users, SEEN_ITEM_IDS: pa.ListArray.from_arrays(offsets, items)})
