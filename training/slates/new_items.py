"""The source of items that nobody has met: which these are, and what share of the candidates they are given.

Of new items validation tells nothing; so some that are known are ranked as if they were new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Bools, Doubles, Floats
from contract.bundle import SourceSpec
from contract.encoders import OOV_CODE
from training.data.prepared import Prepared
from training.examples.split import HeldOut, first_users, only_items
from training.metrics.lists import list_metrics
from training.retrieval.new_items import is_probe
from training.slates.choose import CHOICE_USERS
from training.slates.slates import Retriever
from training.slates.sources import FittedSource, RecentLists, SourceForm, SourceLists, lists_of

NEW = "new"
SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
"""What new items may have of the K candidates."""
SOUGHT = 0.5
"""How much of what is found of an item that is known is sought of a new one."""
MOST = 2_000
"""New items that are listed, those thought most popular: a request compares each of them."""


def new_items(is_new: Bools, vectors: Floats) -> FittedSource:
    """Makes the source of the new ones among the catalogue's items, (I,), whose vectors are (I,D)."""
    listed = np.flatnonzero(is_new)
    listed = listed[np.argsort(-vectors[listed, -1], kind="stable")[:MOST]]
    marks = np.zeros(len(vectors), dtype=np.float32)
    marks[listed] = 1
    spec = SourceSpec(name=NEW, kind="new", share=0, file=f"{NEW}.npy")
    return FittedSource(SourceForm(NEW), spec, item_scores=marks)


def with_new_items(
    prepared: Prepared,
    retriever: Retriever,
    held: HeldOut,
    vectors: tuple[Floats, Floats],
    sources: Sequence[FittedSource],
    k: int,
) -> tuple[FittedSource, ...]:
    """Gives new items a share of the candidates, and the sources what is left of theirs.

    It is the least share with which items that are ranked as new are found among `k` half as often as when
    they are known, as long as all that held-out users chose is found as often, within the standard error; it
    may be none.
    `vectors` are those users' (U,D) and the catalogue's (I,D).
    """
    codes = retriever.catalogue[names.ITEM_ID]
    if not (codes == OOV_CODE).any():
        return tuple(sources)
    newest = new_items(codes == OOV_CODE, vectors[1])
    recent = RecentLists.of(prepared, prepared.split.train_until)
    some = first_users(held, CHOICE_USERS)
    lists = lists_of((*sources, newest), recent, some, (vectors[0][:CHOICE_USERS], vectors[1]), k)
    affordable = _affordable(_found(lists, sources, some, k))
    if not affordable:
        return (*sources, newest.with_share(0))
    is_withheld = (codes != OOV_CODE) & is_probe(len(codes))
    trial, share = only_items(held, is_withheld), affordable[0]
    if len(trial.user_rows):
        vectors = retriever.vectors(trial, prepared.split.train_until)
        known = lists_of((*sources, newest), recent, trial, vectors, k)
        sought = SOUGHT * _found(known, sources, trial, k)[0.0].mean()
        as_new = _as_new(retriever, is_withheld, sources, recent, trial, vectors, k)
        found = _found(as_new, sources, trial, k)
        share = next((one for one in affordable if found[one].mean() >= sought), affordable[-1])
    reduced = (one.with_share(one.spec.share * (1 - share)) for one in sources)
    return (*reduced, newest.with_share(share))


def _affordable(found: Mapping[float, Doubles]) -> list[float]:
    """Lists the shares with which users (U,) find as much as without, within the standard error."""
    before = found[0.0]
    noise = before.std() / np.sqrt(len(before))
    return [share for share in SHARES if before.mean() - found[share].mean() <= noise]


def _found(
    lists: SourceLists, sources: Sequence[FittedSource], held: HeldOut, k: int
) -> dict[float, Doubles]:
    """Gives the recall among `k` of each user (U,), by the share of new items, whose list is the last."""
    of_others = np.array([one.spec.share for one in sources])
    found = {}
    for share in (0.0, *SHARES):
        merged = lists.merged([*(of_others * (1 - share)), share])
        found[share] = list_metrics(merged, held.relevant, cutoffs=(k,))[f"recall@{k}"]
    return found


def _as_new(
    retriever: Retriever,
    is_withheld: Bools,
    sources: Sequence[FittedSource],
    recent: RecentLists,
    held: HeldOut,
    vectors: tuple[Floats, Floats],
    k: int,
) -> SourceLists:
    """Asks every source; only the vectors' and that of new items know the items that are withheld."""
    codes = np.where(is_withheld, OOV_CODE, retriever.catalogue[names.ITEM_ID])
    items = retriever.model.encode_items({**retriever.catalogue, names.ITEM_ID: codes})
    hidden = csr_matrix(np.repeat(is_withheld[None].astype(np.float32), len(held.user_rows), axis=0))
    others = lists_of(sources, recent, replace(held, seen=held.seen + hidden), vectors, k)
    newest = new_items(codes == OOV_CODE, items)
    nearest = lists_of((newest,), recent, held, (vectors[0], items), k)
    of_all = [nearest.positions[:, :1], others.positions[:, 1:], nearest.positions[:, 1:]]
    return SourceLists(np.concatenate(of_all, axis=1), len(items))
