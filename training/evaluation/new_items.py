"""How well new items are found: some are withheld from training and ranked as new, and as known beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Bools, Ints
from contract.encoders import Encoders, Vocabulary
from training.data.prepared import Prepared
from training.examples.split import HeldOut, held_out, is_before, rows_of
from training.slates.search import PerUser, evaluate_vectors
from training.slates.slates import Retriever

SHARE = 0.07
"""Share of the items with an interaction that is withheld."""

Fit = Callable[[Prepared, Encoders], Retriever]


def assess_new_items(
    prepared: Prepared, encoders: Encoders, retriever: Retriever, fit: Fit, seed: int, share: float = SHARE
) -> dict[str, PerUser]:
    """Ranks the whole catalogue for those who chose withheld items in the test part; only these are relevant.

    Gives the metrics per user: `as known` by `retriever`, which met them, `as new` by one that `fit` makes of
    data in which nobody ever met them. Empty where the test part has none of them.
    """
    withheld = choose_items(prepared, share, seed)
    split = prepared.split
    held = only_items(held_out(prepared, split.validate_until, split.test_until), withheld)
    ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)[withheld]
    without = without_items(prepared, ids)
    newer = fit(without, forgetting(encoders, ids))
    rows = rows_of(newer.histories.user_ids, held.user_ids)
    held, rows = at_users(held, rows >= 0), rows[rows >= 0]
    if not len(rows):
        return {}
    instant = split.validate_until
    return {
        "as known": evaluate_vectors(held, *retriever.vectors(held, instant)),
        "as new": evaluate_vectors(held, *newer.vectors(replace(held, user_rows=rows), instant)),
    }


def choose_items(prepared: Prepared, share: float, seed: int) -> Bools:
    """Draws a share of the items that somebody met before the test, (I,)."""
    before = prepared.interactions[names.ITEM_ID][is_before(prepared, prepared.split.validate_until)]
    is_met = np.isin(prepared.items[names.ITEM_ID].to_numpy(np.int64), before.to_numpy(np.int64))
    return is_met & (np.random.default_rng(seed).random(len(is_met)) < share)


def without_items(prepared: Prepared, item_ids: Ints) -> Prepared:
    """Leaves out every interaction with some items; the items themselves stay, and so does the split."""
    dataset = prepared.dataset.model_copy(update={"split": prepared.split})
    gone = np.isin(prepared.interactions[names.ITEM_ID].to_numpy(np.int64), item_ids)
    interactions = prepared.interactions[~gone].reset_index(drop=True)
    return replace(prepared, dataset=dataset, interactions=interactions)


def forgetting(encoders: Encoders, item_ids: Ints) -> Encoders:
    """Gives the same encoders without some items' codes: their ids are unknown."""
    known = encoders.vocabularies[names.ITEM_ID]
    kept = ~np.isin(known.values, item_ids)
    items = Vocabulary(known.values[kept], known.codes[kept])
    vocabularies = encoders.vocabularies | {names.ITEM_ID: items}
    return Encoders(encoders.fields, vocabularies, encoders.scales, encoders.centres)


def only_items(held: HeldOut, items: Bools) -> HeldOut:
    """Keeps as relevant only some items (I,), and the users who have one of them to find."""
    relevant = csr_matrix(held.relevant.multiply(items.astype(np.int8)[None]))
    relevant.eliminate_zeros()
    return at_users(replace(held, relevant=relevant), np.diff(relevant.indptr) > 0)


def at_users(held: HeldOut, users: Bools) -> HeldOut:
    """Keeps some users, (U,)."""
    parts = {name: getattr(held, name)[users] for name in ("user_ids", "user_rows", "relevant", "seen")}
    return replace(held, **parts)
