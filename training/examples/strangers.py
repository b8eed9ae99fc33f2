"""Users whom nobody knows, in the place of those who are known: neither id nor profile is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd

from contract import names
from training.data.prepared import Prepared
from training.examples.split import HeldOut, all_user_ids, rows_of
from training.features.activity import event_times

FEW = (1, 3, 5, 10)
"""So many items are known of strangers of whom few are."""


def with_strangers(
    prepared: Prepared, held: HeldOut, instant: datetime, count: int
) -> tuple[Prepared, HeldOut]:
    """Adds for every held-out user one whose id and profile nobody knows, with the same newest interactions.

    At most `count` each of those before the instant. Gives the data with them, and them in the held-out
    users' place and order: what they should find and have seen is the same.
    """
    log, known = prepared.interactions, all_user_ids(prepared)
    ids = np.setdiff1d(np.arange(len(held.user_ids) + len(known)), known)[: len(held.user_ids)]
    users = rows_of(held.user_ids, log[names.USER_ID].to_numpy(np.int64))
    times = event_times(prepared.dataset, log).astype("int64").to_numpy()
    rows = np.flatnonzero((users >= 0) & (times < pd.Timestamp(instant).value))
    rows = rows[np.lexsort((times[rows], users[rows]))]
    from_end = pd.Series(users[rows]).groupby(users[rows]).cumcount(ascending=False).to_numpy()
    rows = np.sort(rows[from_end < count])
    copies = log.iloc[rows].assign(**{names.USER_ID: ids[users[rows]]})
    strangers = prepared.users.iloc[:0].reindex(range(len(ids))).assign(**{names.USER_ID: ids})
    clock = prepared.dataset.timestamp
    together = replace(
        prepared,
        users=pd.concat([prepared.users, strangers]).sort_values(names.USER_ID, ignore_index=True),
        interactions=pd.concat([log, copies]).sort_values(
            clock, kind="stable", na_position="first", ignore_index=True
        ),
    )
    return together, replace(held, user_ids=ids, user_rows=rows_of(all_user_ids(together), ids))
