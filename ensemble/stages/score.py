"""Scores the candidates: user-item features, then the ranker on all rows of the batch at once."""

from __future__ import annotations

import numpy as np
from merlin.schema import Schema

from ensemble.bundle import Ranker
from ensemble.contract import ErrorCode, StageError
from ensemble.stage import Array, Stage, Tensors, tensor
from ensemble.stages.lookup import comparable, encoded, recent
from feature_repo.affinity import LISTS, affinity_columns, user_item_feature_names, user_item_features
from feature_repo.dataset import Dataset
from feature_repo.names import ITEM_ID
from training.encoders import Encoders


class ScoreCandidates(Stage):
    """Computes the user-item features and P(click) of every candidate, B x K in one call of the ranker.

    A ranker that fails, fails the request; a score outside [0,1] is our bug.
    """

    def __init__(self, ranker: Ranker, encoders: Encoders, dataset: Dataset, k: int) -> None:
        super().__init__()
        self.ranker, self.encoders, self.dataset, self.k = ranker, encoders, dataset, k
        self.user_item = user_item_feature_names(dataset)
        self.compared = tuple(c for c in affinity_columns(dataset) if c != ITEM_ID)
        self.given = tuple(encoded(n) for n in ranker.features if n not in self.user_item)
        self.of_items = {ITEM_ID, *dataset.item_catalog, *dataset.item_activity}
        compared = tuple(n for c in self.compared for n in (comparable(c), *(recent(u, c) for u in LISTS)))
        self.reads = ("candidate_ids", "candidate_mask", *LISTS, *compared, *self.given)

    @property
    def writes(self) -> Schema:
        """The user-item features and `ranking_scores`, float32 (B,K)."""
        return Schema([tensor(name, np.float32, self.k) for name in (*self.user_item, "ranking_scores")])

    def load_artifacts(self, artifact_path: str | None = None) -> None:
        """Loads the ranker."""
        del artifact_path
        self.ranker.open()

    def run(self, candidate_ids: Array, candidate_mask: Array, **tensors: Array) -> Tensors:  # type: ignore[override]
        """Scores B x K rows; what is no candidate scores 0."""
        recents = {
            u: {ITEM_ID: tensors[u]} | {c: tensors[recent(u, c)] for c in self.compared} for u in LISTS
        }
        candidates = {ITEM_ID: candidate_ids} | {c: tensors[comparable(c)] for c in self.compared}
        user_item = user_item_features(self.dataset, recents, candidates)
        user, candidate = {}, {}
        for name in self.ranker.features:
            if name in user_item:
                candidate[name] = self.encoders.encode(name, user_item[name])
            elif name in self.of_items:
                candidate[name] = tensors[encoded(name)]
            else:
                is_list = self.encoders.fields[name].kind == "list"
                user[name] = tensors[encoded(name)] if is_list else tensors[encoded(name)][:, 0]
        scores = self.ranker(user, candidate)
        live = scores[candidate_mask]
        if not ((live >= 0) & (live <= 1)).all():
            message = f"the ranker gave scores outside [0,1], from {live.min()} to {live.max()}"
            raise StageError(ErrorCode.CONTRACT, self.name, message)
        return {**user_item, "ranking_scores": np.where(candidate_mask, scores, np.float32(0))}
