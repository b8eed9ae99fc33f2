"""Leave-last-out: the last new positive of every user is to be found, whenever that was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from contract import names
from contract.arrays import Bools, Ints
from contract.dataset import DatasetError, Split, SplitBy
from training.data.prepared import Prepared
from training.examples.split import is_positive
from training.features.activity import event_times, snapshot_instants

JUST_BEFORE = 1_000
"""ns, the resolution of prepared timestamps."""
TRAIN, VALIDATION, TEST, AFTER = range(4)


def leave_last_out(prepared: Prepared) -> Prepared:
    """Moves every user's clock so that one split by time holds out each one's last positive.

    Of a user with two timed positives that were new then, and something before them, the last is the test,
    the other validation with what followed it, and what came before is train; what came after the test is
    left out. All of any other user is train. A user's times of a part are moved together: what happened
    shortly before the one that is to be found still did; test lies a snapshot's step after validation. What
    was done with an item several times at one instant, as three cartons of milk are bought, is one
    interaction: to find one beside the others would be no question. Which of several items of one instant
    comes last is drawn, always alike: by the order of rows it would be the one whose id sorts last.

    Raises:
        DatasetError: there is no user of whom this can be asked.
    """
    prepared = _each_once(prepared)
    dataset, log = prepared.dataset, prepared.interactions
    times = event_times(dataset, log).astype("int64").to_numpy()
    _, users = np.unique(log[names.USER_ID].to_numpy(np.int64), return_inverse=True)
    is_timed = log[dataset.timestamp].notna().to_numpy()
    drawn = np.random.default_rng(0).permutation(len(log))
    order = np.lexsort((np.where(is_timed, drawn, np.arange(len(log))), times, users))
    users, times, is_timed = users[order], times[order], is_timed[order]
    parts, aims = _parts(users, is_timed & _is_new_positive(prepared)[order])
    if not (parts == TEST).any():
        raise DatasetError(
            f"{dataset.name}: nobody has two timed positives ({dataset.target}) that were new, and something "
            "before them, as leave-last-out needs; measure by the split of the data set itself"
        )
    step = pd.Timedelta(hours=dataset.activity.snapshot_hours)
    latest = pd.Timestamp(times.max(), tz="UTC")
    validate, test = snapshot_instants(dataset, latest + step, latest + 2 * step)[:2]
    until = np.array([validate.value, test.value, test.value + JUST_BEFORE])[np.minimum(parts, TEST)]
    since = np.array([times.min(), validate.value, test.value])[np.minimum(parts, TEST)]
    moved = np.clip(times - times[aims] + until, since, until - JUST_BEFORE)
    selected = np.flatnonzero(parts < AFTER)
    selected = selected[np.lexsort((np.where(is_timed, moved, 0)[selected], is_timed[selected]))]
    at = pd.Series(pd.DatetimeIndex(moved[selected], tz="UTC")).where(is_timed[selected])
    split = Split(train_until=validate, validate_until=test, test_until=test + step)
    return replace(
        prepared,
        dataset=dataset.model_copy(update={"split": split, "split_by": SplitBy.TIME, "as_of": test}),
        interactions=log.iloc[order[selected]].reset_index(drop=True).assign(**{dataset.timestamp: at}),
    )


def _each_once(prepared: Prepared) -> Prepared:
    """Leaves one row of all of a user's with an item at an instant, a positive where one is."""
    dataset, log = prepared.dataset, prepared.interactions
    key = [names.USER_ID, names.ITEM_ID, dataset.timestamp]
    positives_first = log.assign(is_other=~is_positive(prepared, dataset.target)).sort_values(
        "is_other", kind="stable"
    )
    is_repeated = positives_first.duplicated(key).sort_index() & log[dataset.timestamp].notna()
    return replace(prepared, interactions=log[~is_repeated].reset_index(drop=True))


def _is_new_positive(prepared: Prepared) -> Bools:
    """Marks positives of items that can be answered: of the catalogue, and not seen by the user before."""
    dataset, log = prepared.dataset, prepared.interactions
    is_known = log[names.ITEM_ID].isin(prepared.items[names.ITEM_ID]).to_numpy()
    seen = pd.DataFrame(
        {
            "user": log[names.USER_ID],
            "item": log[names.ITEM_ID],
            "is_seen": is_positive(prepared, dataset.seen_labels),
            "at": event_times(dataset, log),
        }
    ).sort_values("at", kind="stable")
    earlier = seen.groupby(["user", "item"])["is_seen"].cumsum() - seen["is_seen"]
    new = (earlier.sort_index() == 0).to_numpy()
    answers: Bools = new & is_known & is_positive(prepared, dataset.target)
    return answers


def _parts(users: Ints, is_answer: Bools) -> tuple[Ints, Ints]:
    """Takes the user of each row, ascending, and whether it can be asked for; oldest first.

    Gives each row's part, and the row whose time its own is told from: what is to be found then, or of a user
    who is train alone the last row. (rows,) each.
    """
    rows = np.arange(len(users))
    count = int(users.max()) + 1
    starts, stops = np.searchsorted(users, [np.arange(count), np.arange(1, count + 1)])
    test, validation = np.full(count, -1), np.full(count, -1)
    answers = rows[is_answer]
    of = users[answers]
    test[of] = answers  # the last one written stays
    rest = answers[answers != test[of]]
    validation[users[rest]] = rest
    is_asked = (validation > starts)[users]
    test, validation = test[users], validation[users]
    parts = np.select(
        [~is_asked | (rows < validation), rows < test, rows == test], [TRAIN, VALIDATION, TEST], AFTER
    )
    aims = np.select([~is_asked, rows < validation], [(stops - 1)[users], validation], test)
    return parts, aims
