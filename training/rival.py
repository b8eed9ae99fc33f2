"""Measures a bundle that exists on data that came after it, as one that was trained on them is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from contract import bundle as files
from contract.arrays import Array, Floats, Ints
from contract.bundle import (
    RANKER,
    USER_TOWER,
    Manifest,
    ModelSpec,
    read_manifest,
    table_parts,
    with_rows,
)
from contract.encoders import Encoders
from contract.item_to_item import ItemToItem
from contract.names import ITEM_ID
from training.data.prepared import Prepared
from training.evaluation.assess import SERVED
from training.evaluation.report import Report
from training.examples.positives import UserHistories, item_columns
from training.examples.split import held_out, rows_of
from training.export.ranker import run_ranker
from training.export.towers import run_model
from training.ranking.model import RankingModel
from training.retrieval.model import RetrievalModel
from training.slates.search import evaluate_lists, reorder
from training.slates.slates import Learned, Retriever, rank_candidates
from training.slates.sources import FittedSource, SourceForm


def measure_again(folder: Path, prepared: Prepared, test: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Gives what `metrics.json` would hold of a bundle's slates, had it been measured on the test part of a
    data set; `test` says which that is.

    The bundle's files are what is measured; its items are those of the data set, encoded as it encodes them.

    Raises:
        BundleError: a file is missing or changed.
    """
    learned = learned_of(folder, prepared)
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    report = Report(is_full=False)
    if len(held.user_rows):
        vectors = learned.retriever.vectors(held, split.validate_until)
        slates = rank_candidates(prepared, learned, held, vectors, split.validate_until, k)
        lists = reorder(slates.items, slates.served(learned.order))
        report.add("end_to_end", SERVED, evaluate_lists(held, lists))
    return {"bundle": folder.name, "test": dict(test), "served": SERVED, "sections": report.sections}


def learned_of(folder: Path, prepared: Prepared) -> Learned:
    """Opens a bundle as what a training run made, on the items of a data set."""
    manifest, encoders = read_manifest(folder), Encoders.load(folder / files.ENCODERS_FILE)
    towers = _Towers(folder, manifest)
    retriever = Retriever(
        cast(RetrievalModel, towers),
        UserHistories.of(prepared, encoders),
        item_columns(prepared, encoders),
    )
    ranker = cast(RankingModel, _Ranker(folder, manifest))
    return Learned(encoders, retriever, ranker, {}, manifest.order, _sources(folder, manifest, prepared))


@dataclass(frozen=True)
class _Towers:
    folder: Path
    manifest: Manifest

    def encode_users(self, arrays: Mapping[str, Array]) -> Floats:
        tables = table_parts(self.folder, self.manifest, USER_TOWER)
        return self._run(self.manifest.user_tower, with_rows(tables, arrays))

    def encode_items(self, arrays: Mapping[str, Array]) -> Floats:
        return self._run(self.manifest.item_tower, arrays)

    def _run(self, spec: ModelSpec, arrays: Mapping[str, Array]) -> Floats:
        vectors: Floats = run_model(
            self.folder / spec.file, spec, {name: arrays[name] for name in spec.columns}
        ).astype(np.float32)
        return vectors


@dataclass(frozen=True)
class _Ranker:
    folder: Path
    manifest: Manifest

    @property
    def features(self) -> tuple[str, ...]:
        return self.manifest.ranker.columns

    def predict_candidates(self, arrays: Mapping[str, Array]) -> Floats:
        """Scores each row as a user of its own with one candidate."""
        spec = self.manifest.ranker
        arrays = with_rows(table_parts(self.folder, self.manifest, RANKER), arrays)
        user = {name: arrays[name] for name in spec.user.columns}
        candidate = {name: arrays[name][:, None] for name in spec.candidate.columns}
        return run_ranker(self.folder / spec.file, spec, user, candidate)[:, 0]


def _sources(folder: Path, manifest: Manifest, prepared: Prepared) -> tuple[FittedSource, ...]:
    """Reads the sources of users beside the vectors, and moves them to the positions of the data's items."""
    known: Ints = np.load(folder / files.ITEM_IDS_FILE, allow_pickle=False)
    items = prepared.items[ITEM_ID].to_numpy(np.int64)
    of_old, of_new = rows_of(items, known), rows_of(known, items)
    found = []
    for spec in manifest.sources:
        if spec.file is None or not spec.is_for_users:
            continue
        fitted = FittedSource(SourceForm(spec.name), spec)
        if spec.kind == "item_to_item":
            table = ItemToItem.load(folder / spec.file)
            to = of_old[table.items][of_new]
            is_there = (to >= 0) & (of_new >= 0)[:, None]
            moved = ItemToItem(
                np.where(is_there, to, 0).astype(np.int32),
                np.where(is_there, table.weights[of_new], 0).astype(np.float32),
            )
            found.append(replace(fitted, table=moved))
        else:
            scores = np.load(folder / spec.file, allow_pickle=False)
            found.append(replace(fitted, item_scores=np.where(of_new < 0, 0, scores[of_new])))
    return tuple(found)
