"""How well new items are found: some are withheld from training and ranked as new, and as known beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from contract import names
from contract.arrays import Bools, Ints
from contract.encoders import OOV_CODE, Encoders, Vocabulary
from training.data.prepared import Prepared
from training.examples.split import HeldOut, at_users, held_out, is_before, only_items, rows_of
from training.metrics.lists import list_metrics
from training.slates.new_items import new_items
from training.slates.search import PerUser, evaluate_vectors
from training.slates.slates import Learned, Retriever
from training.slates.sources import FittedSource, RecentLists, fitted_again, lists_of

SHARE = 0.07
"""Share of the items with an interaction that is withheld."""

Fit = Callable[[Prepared, Encoders], Retriever]


def assess_new_items(
    prepared: Prepared, learned: Learned, fit: Fit, seed: int, k: int, share: float = SHARE
) -> dict[str, PerUser]:
    """Ranks the whole catalogue for those who chose withheld items in the test part; only these are relevant.

    Gives the metrics per user, of the vectors alone and of the `k` candidates of all sources: `as known` by
    `learned`, which met them, `as new` by the same fitted on data in which nobody ever met them, the vectors
    by `fit`. Empty where the test part has none of them.
    """
    withheld = choose_items(prepared, share, seed)
    split, encoders = prepared.split, learned.encoders
    held = only_items(held_out(prepared, split.validate_until, split.test_until), withheld)
    ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)[withheld]
    without = without_items(prepared, ids)
    newer = fit(without, forgetting(encoders, ids))
    rows = rows_of(newer.histories.user_ids, held.user_ids)
    held, rows = at_users(held, rows >= 0), rows[rows >= 0]
    if not len(rows):
        return {}
    found = _found(prepared, learned.sources, "as known", learned.retriever, held, k)
    held = replace(held, user_rows=rows)
    sources = [_of_others(without, one, newer) for one in learned.sources]
    return found | _found(without, sources, "as new", newer, held, k)


def _found(
    prepared: Prepared,
    sources: Sequence[FittedSource],
    case: str,
    retriever: Retriever,
    held: HeldOut,
    k: int,
) -> dict[str, PerUser]:
    instant = prepared.split.validate_until
    vectors = retriever.vectors(held, instant)
    lists = lists_of(sources, RecentLists.of(prepared, instant), held, vectors, k)
    merged = lists.merged([one.spec.share for one in sources])
    return {
        f"{retriever.model.name}, {case}": evaluate_vectors(held, *vectors),
        f"all sources, {case}": list_metrics(merged, held.relevant),
    }


def _of_others(prepared: Prepared, source: FittedSource, retriever: Retriever) -> FittedSource:
    """Fits a source on data in which some items are new."""
    if source.spec.kind == "new":
        is_new = retriever.catalogue[names.ITEM_ID] == OOV_CODE
        vectors = retriever.model.encode_items(retriever.catalogue)
        return new_items(is_new, vectors).with_share(source.spec.share)
    return fitted_again(prepared, source, prepared.split.validate_until)


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
    is_known = ~np.isin(known.values, item_ids)
    items = Vocabulary(known.values[is_known], known.codes[is_known])
    vocabularies = encoders.vocabularies | {names.ITEM_ID: items}
    return Encoders(encoders.fields, vocabularies, encoders.scales, encoders.centres)
