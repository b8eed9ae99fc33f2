"""What a log leaves unsaid: a clock, where rows have no time that tells them apart, and a label.

Both become columns of the prepared data set, so that nothing after it needs to know.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pandas as pd

from contract import names
from contract.columns import Column, Role
from contract.dataset import Dataset, SplitBy
from training.data.prepared import default_split

CLOCK = "timestamp"
CHOSEN = "is_chosen"
FIRST = pd.Timestamp("2001-01-01", tz="UTC")
DAYS = 30
"""When the made-up clock begins, and how long it runs: the log's order, spread over a month."""

Say = Callable[[str], None]


def with_clock(dataset: Dataset, log: pd.DataFrame, say: Say) -> tuple[Dataset, pd.DataFrame]:
    """Gives the log a clock where its own does not split it into three parts, or `split_by: rows` asks so.

    A user's rows are spread over the clock in their order (by time as far as there is one, else as the file
    has them), so that the last ones of everyone are held out: a split by rows per user.
    """
    named = next((n for n, c in dataset.interactions.items() if c.role is Role.TIMESTAMP), None)
    if dataset.split_by is SplitBy.TIME:
        if named is not None and (dataset.split or _is_split_by_time(log[named])):
            return dataset, log
        why = (
            "no timestamps"
            if named is None or log[named].isna().all()
            else "too few instants to split by time"
        )
        say(f"interactions: {why}; the last rows of each user are held out (split_by: rows)")
    clock = named or CLOCK
    if named is not None:
        log = log.sort_values(named, kind="stable", na_position="first")
    order = _spread(log[names.USER_ID].to_numpy(np.int64))
    step = timedelta(days=DAYS) / max(len(log), 1)
    log = log.assign(**{clock: FIRST + order * pd.Timedelta(step).floor("us")})
    log[clock] = log[clock].astype("datetime64[ns, UTC]")
    update = {
        "interactions": {**dataset.interactions, clock: Column(role=Role.TIMESTAMP)},
        "split_by": SplitBy.ROWS,
        "split": None,
        "history_until": None,
        "as_of": (FIRST + pd.Timedelta(days=DAYS)).to_pydatetime(),
    }
    return dataset.model_copy(update=update), log.sort_values(clock, ignore_index=True)


def _is_split_by_time(at: pd.Series) -> bool:
    """Whether the default split of these instants has a row in each part."""
    known = at.dropna()
    if known.empty:
        return False
    try:
        split = default_split(at)
    except ValueError:
        return False
    later = known >= split.train_until
    validation = later & (known < split.validate_until)
    return bool((~later).any() and validation.any() and (known >= split.validate_until).any())


def _spread(users: np.ndarray) -> np.ndarray:
    """Gives every row (R,) its place 0..R-1: row j of a user's n stands at j / n, a single one in the middle,
    and users in an order of no meaning where they stand level."""
    frame = pd.DataFrame({"user": users})
    rows = frame.groupby("user").cumcount().to_numpy() + 1
    counts = frame.groupby("user")["user"].transform("size").to_numpy()
    at = np.where(counts > 1, rows / counts, 0.5)
    shuffled = pd.util.hash_array(users)
    places = np.empty(len(users), dtype=np.int64)
    places[np.lexsort((shuffled, at))] = np.arange(len(users))
    return places


def with_label(dataset: Dataset, log: pd.DataFrame, say: Say) -> tuple[Dataset, pd.DataFrame]:
    """Gives a log without a label one that is 1 in every row: what is in it was chosen."""
    if dataset.labels:
        return dataset, log
    say(f"interactions: no label; what is there counts as chosen ({CHOSEN} is 1 in every row)")
    columns = {**dataset.interactions, CHOSEN: Column(role=Role.LABEL)}
    chosen = pd.array(np.ones(len(log), dtype=np.int64), dtype="Int64")
    return dataset.model_copy(update={"interactions": columns}), log.assign(**{CHOSEN: chosen})
