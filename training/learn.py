"""Trains the two models of a bundle: rows, workflow, two-tower, ranker."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import nvtabular as nvt
import pandas as pd

from contract import names
from contract.affinity import LISTS
from contract.arrays import Array
from contract.bundle import OrderSpec
from contract.encoders import Encoders, Field
from training.config import TrainingSettings
from training.data.prepared import Prepared
from training.data.raw import all_columns
from training.examples.candidates import CandidateRows, candidate_rows
from training.examples.exposures import RankingRows, RankingTable, concatenate
from training.examples.positives import UserHistories, item_columns, retrieval_examples
from training.examples.split import HeldOut, held_out
from training.examples.workflow import fit_workflow, workflow_rows
from training.ranking.dlrm import Dlrm, fit_dlrm
from training.ranking.ordering import fit_ordering
from training.retrieval.two_tower import TwoTower, fit_two_tower
from training.slates.search import evaluate_vectors, retrieve
from training.slates.slates import Retrieval, make_slates

VALIDATION_USERS = 4000
"""Most users on whom early stopping of retrieval looks."""
WORKFLOW_PARTITION = 20_000
"""Rows that NVTabular takes at a time."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Everything that the models learn from, made once for all seeds."""

    table: RankingTable
    train: RankingRows
    histories: RankingRows
    validation: RankingRows
    test: RankingRows


@dataclass(frozen=True, eq=False)
class Learned:
    """What one training run made."""

    encoders: Encoders
    retrieval: Retrieval
    dlrm: Dlrm
    order: OrderSpec
    ranked: Mapping[str, Array]
    """Some encoded rows of the ranker."""


def make_rows(prepared: Prepared) -> Rows:
    """Makes the ranker's rows of each part. The test's features are as of its start."""
    split = prepared.split
    table = RankingTable.of(prepared, split.validate_until)
    return Rows(
        table=table,
        train=table.exposures(None, split.train_until),
        histories=table.histories(),
        validation=table.exposures(split.train_until, split.validate_until),
        test=table.exposures(split.validate_until, split.test_until, as_of=split.validate_until),
    )


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
    """Fits the workflow on the train part and reads it out as lookups."""
    columns = all_columns(prepared.dataset)
    rows = workflow_rows(fitting_rows(prepared, train), columns)
    partitions = max(1, len(rows) // WORKFLOW_PARTITION)
    with tempfile.TemporaryDirectory(prefix="shortlist-") as folder:
        fitted = fit_workflow(
            prepared.dataset, nvt.Dataset(rows, npartitions=partitions, cpu=True), Path(folder)
        )
        return fitted.encoders()


def fit_retrieval(prepared: Prepared, encoders: Encoders, settings: TrainingSettings, seed: int) -> Retrieval:
    """Trains the towers; early stopping looks at NDCG@100 on the validation part, if anybody is in it."""
    histories = UserHistories.of(prepared, encoders)
    examples = retrieval_examples(prepared, histories, prepared.split.train_until)
    catalogue = item_columns(prepared, encoders)
    held = first_users(held_out(prepared, prepared.split.train_until, prepared.split.validate_until))
    users = histories.as_of(held.user_rows, prepared.split.train_until)

    def validate(model: TwoTower) -> float:
        metrics = evaluate_vectors(held, model.encode_users(users), model.encode_items(catalogue))
        return float(np.nanmean(metrics["ndcg@100"]))

    model = fit_two_tower(
        encoders.fields,
        examples,
        catalogue,
        settings.two_tower,
        seed,
        validate if len(held.user_rows) else None,
    )
    return Retrieval(model, histories, catalogue)


def fit_ranker(
    prepared: Prepared,
    encoders: Encoders,
    rows: Rows,
    settings: TrainingSettings,
    seed: int,
    fields: Mapping[str, Field] | None = None,
    candidates: CandidateRows | None = None,
) -> Dlrm:
    """Trains the ranker on the train part's exposures, on histories, and on retrieved candidates where given;
    it reads `fields`, by default all.
    """
    dataset = prepared.dataset
    train = concatenate([rows.train, rows.histories]) if len(rows.histories) else rows.train
    first = dataset.labels.index(dataset.target)
    order = [first, *(at for at in range(len(dataset.labels)) if at != first)]
    return fit_dlrm(
        encoders.fields if fields is None else fields,
        train.encoded(encoders, dataset),
        train.labels[:, order],
        rows.validation.encoded(encoders, dataset),
        rows.validation.labels[:, first],
        settings.dlrm,
        seed,
        candidates,
    )


def make_candidates(
    prepared: Prepared, encoders: Encoders, rows: Rows, retrieval: Retrieval, k: int, seed: int
) -> CandidateRows | None:
    """Makes rows of what the towers retrieve for users of the train part's last days, clicked or not."""

    def retrieve_for(held: HeldOut, instant: datetime) -> npt.NDArray[np.int64]:
        return retrieve(held, *retrieval.vectors(held, instant), k)

    return candidate_rows(rows.table, encoders, retrieve_for, prepared.split.train_until, seed)


def learn_order(
    prepared: Prepared, encoders: Encoders, retrieval: Retrieval, dlrm: Dlrm, k: int
) -> OrderSpec:
    """Fits how slates are ordered: what the validation part's users clicked of what is retrieved for them."""
    split = prepared.split
    held = first_users(held_out(prepared, split.train_until, split.validate_until))
    if not len(held.user_rows):
        return OrderSpec()
    vectors = retrieval.vectors(held, split.train_until)
    slates = make_slates(prepared, encoders, dlrm, held, vectors, split.train_until, k)
    at = np.arange(len(slates.items))[:, None]
    clicked = held.relevant[at, np.maximum(slates.items, 0)].toarray() > 0
    live = slates.items >= 0
    return fit_ordering(slates.ranking_scores[live], slates.retrieval_scores[live], clicked[live])


def first_users(held: HeldOut, most: int = VALIDATION_USERS) -> HeldOut:
    """Keeps the first users of a held-out part; ids say nothing about taste."""
    parts = {name: getattr(held, name)[:most] for name in ("user_ids", "user_rows", "relevant", "seen")}
    return replace(held, **parts)
