"""Trains the models of a bundle: workflow, retrieval, candidates, order."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import nvtabular as nvt
import pandas as pd

from contract import names
from contract.affinity import LISTS
from contract.bundle import OrderSpec
from contract.columns import Role
from contract.encoders import OOV_CODE, Encoders
from training.config import OrderBy, TrainingSettings
from training.data.prepared import Prepared, to_numpy
from training.data.raw import all_columns
from training.examples.candidates import CandidateRows, candidate_rows
from training.examples.exposures import RankingRows, RankingTable
from training.examples.positives import UserHistories, item_columns, retrieval_examples
from training.examples.split import HeldOut, first_users, held_out
from training.examples.workflow import fit_workflow, with_embedding, workflow_rows
from training.models import chosen_retrieval
from training.ranking.ordering import fit_ordering
from training.retrieval.config import DrawingConfig, TwoTowerConfig
from training.retrieval.model import CountsPopularity
from training.retrieval.task import FittingTask
from training.retrieval.tower_design import late_popularity
from training.retrieval.validation import Validation
from training.slates.choose import choose_sources
from training.slates.new_items import with_new_items
from training.slates.search import retrieve
from training.slates.slates import Learned, Retriever, rank_candidates
from training.slates.sources import POPULAR, FittedSource, RecentLists, fitted_again, lists_of
from training.slates.strangers import with_orders_of_few

VALIDATION_USERS = 4000
"""Most users on whom early stopping of retrieval looks."""
WORKFLOW_PARTITION = 20_000
"""Rows that NVTabular takes at a time."""
VECTORS_WEIGHT, POPULAR_WEIGHT, UNFITTED_INTERCEPT = 5.0, 0.2, -5.0
"""Of the log-odds of a click, where nothing is fitted."""
RANKERS_ORDER = OrderSpec(ranking=1)
"""By the ranker's score as it is: what orders is what the ranker says, to be compared with it."""


def fitting_rows(prepared: Prepared, train: RankingRows) -> pd.DataFrame:
    """Makes the rows that the workflow is fitted on: the ranker's of the train part, and every history.

    The lists of recent items are left out: each of their items is an earlier interaction, with its own row.
    """
    wanted = [name for name in all_columns(prepared.dataset) if name not in LISTS]
    histories = prepared.interactions[prepared.interactions[prepared.dataset.timestamp].isna()]
    for entity_id, table in ((names.USER_ID, prepared.users), (names.ITEM_ID, prepared.items)):
        histories = histories.merge(table, on=entity_id, how="left")
    parts = [part.reindex(columns=wanted) for part in (train.frame, histories)]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def fit_encoders(prepared: Prepared, train: RankingRows) -> Encoders:
    """Fits the workflow on the train part and reads it out as lookups; embeddings, which NVTabular does not
    know, are centred on those of all users or items."""
    dataset = prepared.dataset
    rows = workflow_rows(fitting_rows(prepared, train), all_columns(dataset))
    partitions = max(1, len(rows) // WORKFLOW_PARTITION)
    with tempfile.TemporaryDirectory(prefix="shortlist-") as folder:
        fitted = fit_workflow(dataset, nvt.Dataset(rows, npartitions=partitions, cpu=True), Path(folder))
        encoders = fitted.encoders()
    for table, features in ((prepared.users, dataset.user_profile), (prepared.items, dataset.item_catalog)):
        for name, column in features.items():
            if column.role is Role.EMBEDDING:
                encoders = with_embedding(encoders, name, to_numpy(table[name], column))
    return encoders


def retrieval_task(prepared: Prepared, encoders: Encoders, config: TwoTowerConfig, seed: int) -> FittingTask:
    """Puts together what retrieval learns, and whom early stopping looks at, if anybody is in validation."""
    split = prepared.split
    histories = UserHistories.of(prepared, encoders)
    catalogue = item_columns(prepared, encoders)
    held = first_users(held_out(prepared, split.train_until, split.validate_until), VALIDATION_USERS)
    users = histories.as_of(held.user_rows, split.train_until)
    return FittingTask(
        encoders.fields,
        retrieval_examples(prepared, histories, split.train_until),
        catalogue,
        config,
        seed,
        Validation(users, catalogue, held.relevant, held.seen) if len(held.user_rows) else None,
    )


def fit_retriever(prepared: Prepared, encoders: Encoders, settings: TrainingSettings, seed: int) -> Retriever:
    """Trains the retrieval model."""
    task = retrieval_task(prepared, encoders, settings.two_tower, seed)
    fit = chosen_retrieval(settings)
    model = fit(task.fields, task.examples, task.catalogue, seed=seed, validate=task.validation)
    return Retriever(model, task.examples.histories, task.catalogue)


def make_candidates(
    prepared: Prepared, encoders: Encoders, table: RankingTable, retriever: Retriever, k: int, seed: int
) -> CandidateRows | None:
    """Makes rows of what is retrieved for users of the train part's last days, clicked or not."""

    def retrieve_for(held: HeldOut, instant: datetime) -> npt.NDArray[np.int64]:
        return retrieve(held, *retriever.vectors(held, instant), k)

    return candidate_rows(table, encoders, retrieve_for, prepared.split.train_until, seed)


def unfitted_order(sources: Sequence[str]) -> OrderSpec:
    """Gives the order of slates where validation has too little to fit one: the vectors' and, where it is a
    source, what is popular, each weighed about as fits weigh it.

    Not the ranker's: alone, it is the weakest of all.
    """
    popular = {name: POPULAR_WEIGHT for name in sources if name == POPULAR}
    return OrderSpec(ranking=0, retrieval=VECTORS_WEIGHT, sources=popular, intercept=UNFITTED_INTERCEPT)


def learn_slates(
    prepared: Prepared,
    learned: Learned,
    fitted: Sequence[FittedSource],
    k: int,
    order_by: OrderBy = "blend",
) -> Learned:
    """Chooses how many candidates each source gives, and how slates are ordered, by what the validation
    part's users clicked; `fitted` have seen the train part alone.

    What counts nothing in the order is not served. Where the ranker's score alone orders, every source counts
    nothing, and those that have a share are served for the candidates that they find. New items, of which
    validation tells nothing, get a source of their own, but where the vectors are to be alone. The others are
    fitted again, up to the end of validation: what is popular, and what follows what, grows old sooner than
    models do.
    """
    split = prepared.split
    held = first_users(held_out(prepared, split.train_until, split.validate_until), VALIDATION_USERS)
    is_by_ranker = order_by == "ranker"
    order = RANKERS_ORDER if is_by_ranker else unfitted_order([one.spec.name for one in fitted])
    if len(held.user_rows):
        vectors = learned.retriever.vectors(held, split.train_until)
        lists = lists_of(fitted, RecentLists.of(prepared, split.train_until), held, vectors, k)
        fitted = choose_sources(lists, held.relevant, fitted)
    if len(held.user_rows) and not is_by_ranker:
        updated = replace(learned, sources=tuple(fitted))
        slates = rank_candidates(prepared, updated, held, vectors, split.train_until, k, lists)
        order = fit_ordering(slates.judged(held), otherwise=order)
        order = with_orders_of_few(prepared, replace(updated, order=order), held, slates)
    finds = {one.spec.name for one in fitted if is_by_ranker and one.spec.share}
    sources = tuple(one for one in fitted if one.spec.name in order.weighed | finds)
    if len(held.user_rows) and fitted:
        sources = with_new_items(prepared, learned.retriever, held, vectors, sources, k)
    served = (fitted_again(prepared, one, split.validate_until) for one in sources)
    return replace(learned, order=order, sources=tuple(served))


def renew_popularity(prepared: Prepared, retriever: Retriever, config: DrawingConfig) -> None:
    """Counts how popular items are up to the end of validation, as the sources are fitted again: the vectors
    say it too, where they are such. Once all is chosen: what validation chose by shall not know it."""
    model, codes = retriever.model, retriever.catalogue[names.ITEM_ID]
    if not isinstance(model, CountsPopularity):
        return
    examples = retrieval_examples(prepared, retriever.histories, prepared.split.validate_until)
    examples = examples.some(np.flatnonzero(codes[examples.items] != OOV_CODE))  # new items are placed
    model.renew_popularity(late_popularity(examples, codes, len(model.item_popularity), config))
