"""Who is asked, what they should find and what they have seen, in a later part of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Bools, Ints
from contract.dataset import ANY, NONE
from training.data.prepared import Prepared
from training.features.activity import event_times

DENSE = 8
"""Numbers per id up to which rows are looked up in a table of the whole span, and not searched for."""


def all_user_ids(prepared: Prepared) -> Ints:
    """Lists every user with a row of features or an interaction, ascending."""
    tables = (prepared.users, prepared.interactions)
    return np.unique(np.concatenate([table[names.USER_ID].to_numpy(np.int64) for table in tables]))


def rows_of(ids: Ints, wanted: Ints) -> Ints:
    """Finds the row of every wanted id in the ascending `ids`; -1 where there is none. Same shape."""
    if not len(ids):
        return np.full(wanted.shape, -1)
    span = int(ids[-1]) - int(ids[0]) + 1
    if span <= DENSE * len(ids) < DENSE * wanted.size:
        table = np.full(span + 1, -1)
        table[ids - ids[0]] = np.arange(len(ids))
        is_within = (wanted >= ids[0]) & (wanted <= ids[-1])
        rows: Ints = table[np.where(is_within, wanted - ids[0], span)]
        return rows
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def interaction_matrix(prepared: Prepared, rows: npt.NDArray[np.bool_], label: str = ANY) -> csr_matrix:
    """Counts interactions, (U,I): all users as `all_user_ids` lists them, items as in their table.

    `rows` (interactions,) picks those that count; with a `label`, only where it is 1, none with `none`. An
    item without a row cannot be answered, and has no column.
    """
    log, item_ids = prepared.interactions, prepared.items[names.ITEM_ID].to_numpy(np.int64)
    items = rows_of(item_ids, log[names.ITEM_ID].to_numpy(np.int64))
    mask = rows & (items >= 0) & is_positive(prepared, label)
    user_ids = all_user_ids(prepared)
    users = rows_of(user_ids, log[names.USER_ID].to_numpy(np.int64)[mask])
    counts = np.ones(len(users), dtype=np.float32)
    return csr_matrix((counts, (users, items[mask])), shape=(len(user_ids), len(item_ids)))


def is_positive(prepared: Prepared, label: str) -> npt.NDArray[np.bool_]:
    """Marks the interactions where a label is 1; with `any` all of them, with `none` not one."""
    if label in ("", ANY, NONE):
        return np.full(len(prepared.interactions), label != NONE)
    positive: npt.NDArray[np.bool_] = (prepared.interactions[label] == 1).to_numpy(np.bool_, na_value=False)
    return positive


def is_before(prepared: Prepared, instant: datetime) -> npt.NDArray[np.bool_]:
    """Marks the interactions strictly before an instant, histories included."""
    return np.asarray(event_times(prepared.dataset, prepared.interactions) < pd.Timestamp(instant))


def is_chosen_alone(prepared: Prepared, until: datetime) -> bool:
    """Whether every known target before an instant is 1: the log holds nothing that was passed over."""
    known = prepared.interactions.loc[is_before(prepared, until), prepared.dataset.target].dropna()
    return bool((known == 1).all())


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Users with something new to find: their ids and rows in `all_user_ids`, (U,).

    `relevant` and `seen` are (U,I), nonzero where true.
    """

    user_ids: Ints
    user_rows: Ints
    relevant: csr_matrix
    seen: csr_matrix


def held_out(prepared: Prepared, start: datetime, until: datetime) -> HeldOut:
    """Collects what users chose (the target is 1) from `start` until `until` and had not seen before."""
    dataset = prepared.dataset
    before = is_before(prepared, start)
    later = is_before(prepared, until) & ~before
    seen = interaction_matrix(prepared, before, dataset.seen_labels)
    relevant = interaction_matrix(prepared, later, dataset.target) > 0
    relevant = csr_matrix(relevant.astype(np.int8) - relevant.multiply(seen > 0).astype(np.int8))
    relevant.eliminate_zeros()
    rows = np.flatnonzero(np.diff(relevant.indptr)).astype(np.int64)
    return HeldOut(all_user_ids(prepared)[rows], rows, relevant[rows], seen[rows])


def first_users(held: HeldOut, most: int) -> HeldOut:
    """Keeps the first users of a held-out part; ids say nothing about taste."""
    parts = {name: getattr(held, name)[:most] for name in ("user_ids", "user_rows", "relevant", "seen")}
    return replace(held, **parts)


def only_items(held: HeldOut, items: Bools) -> HeldOut:
    """Keeps as relevant only some items (I,), and the users who have one of them to find."""
    relevant = csr_matrix(held.relevant.multiply(items.astype(np.int8)[None]))
    relevant.eliminate_zeros()
    return at_users(replace(held, relevant=relevant), np.diff(relevant.indptr) > 0)


def at_users(held: HeldOut, users: Bools) -> HeldOut:
    """Keeps some users, (U,)."""
    parts = {name: getattr(held, name)[users] for name in ("user_ids", "user_rows", "relevant", "seen")}
    return replace(held, **parts)


def labels_to_learn_from(prepared: Prepared, until: datetime) -> tuple[str, ...]:
    """Lists on which interactions before an instant a model can be fitted: any and, where there are some and
    not all are, positives alone."""
    target, is_known = prepared.dataset.target, is_before(prepared, until)
    every, positive = (interaction_matrix(prepared, is_known, label).nnz for label in (ANY, target))
    return (ANY, target) if every > positive > 0 else (ANY,)
