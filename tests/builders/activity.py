"""A data set's own log as events, in the order in which they happened, and what is made of it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from contract import names
from contract.activity import ActivityEvent
from training.data.prepared import Prepared
from training.examples.exposures import RankingRows
from training.features import tables
from training.features.activity import EntityLog, countable_labels, event_times


class LoggedEvent(NamedTuple):
    """An event of the log, and whose it is."""

    at: int
    """The instant, ns."""
    user_id: int
    item_id: int
    event: ActivityEvent

    def is_of(self, entity: str, entity_id: int) -> bool:
        """Whether it is a user's or an item's."""
        return entity_id == (self.user_id if entity == names.USER else self.item_id)


def logged_events(prepared: Prepared) -> list[LoggedEvent]:
    """Gives what happened, in order; ties keep file order."""
    log, dataset = prepared.interactions, prepared.dataset
    times = event_times(dataset, log).astype("int64").to_numpy()
    counted = {name: values.tolist() for name, values in countable_labels(prepared).items()}
    is_timed = log[dataset.timestamp].notna().tolist()
    is_positive = (log[dataset.target] == 1).to_numpy(np.bool_, na_value=False).tolist()
    users, items = log[names.USER_ID].tolist(), log[names.ITEM_ID].tolist()
    return [
        LoggedEvent(
            int(times[row]),
            users[row],
            items[row],
            ActivityEvent(
                at_us=int(times[row]) // 1000,
                item_id=items[row],
                labels={n: None if np.isnan(v[row]) else v[row] for n, v in counted.items()},
                is_positive=is_positive[row],
                is_timed=is_timed[row],
            ),
        )
        for row in np.argsort(times, kind="stable").tolist()
    ]


def events_before(log: list[LoggedEvent], entity: str, entity_id: int, at: int) -> list[ActivityEvent]:
    """Gives an entity's events strictly before an instant, ns."""
    return [one.event for one in log if one.at < at and one.is_of(entity, entity_id)]


def with_lists(rows: RankingRows) -> pd.DataFrame:
    """Gives the ranker's rows with the users' lists among them, each an array of its own length."""
    return rows.frame.assign(**{name: lists.series() for name, lists in rows.lists.items()})


def user_activity(prepared: Prepared, instants: pd.DatetimeIndex) -> pd.DataFrame:
    """Makes the users' rows."""
    return EntityLog.of(prepared, names.USER).activity(instants)


def item_activity(prepared: Prepared, instants: pd.DatetimeIndex) -> pd.DataFrame:
    """Makes the items' rows."""
    return EntityLog.of(prepared, names.ITEM).activity(instants)


def overall_rates(prepared: Prepared) -> dict[str, float | None]:
    """Gives the rate of every label."""
    return EntityLog.of(prepared, names.USER).rates


def feature_tables(prepared: Prepared, until: datetime) -> dict[str, pa.Table]:
    """Makes the rows of every view."""
    users, items = EntityLog.of(prepared, names.USER), EntityLog.of(prepared, names.ITEM)
    return tables.feature_tables(prepared, until, users, items)
