"""Scores the candidates: the ranker on all of the batch at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from merlin.schema import Schema

from contract.arrays import Array
from contract.bundle import RANKER
from contract.errors import ErrorCode, StageError
from contract.tensors import PAD_ID
from ensemble.bundle import Ranker
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.beside import CANDIDATES_LACK_EMBEDDINGS, EMBEDDING_VERSION, BesideTables
from ensemble.stages.lookup import encoded

IS_RANKED = "is_ranked"


class ScoreCandidates(Stage):
    """Computes P(click) of every candidate, in one call of the ranker for the batch.

    A user whose `quality` is 0 is not ranked: there is no time for it. Items like another are not ranked
    either: no user asks. Where the ranker fails, nobody is, and
    the retrieval alone orders the slates. A score outside [0,1] is our bug. Where the bundle's order gives
    the ranker no weight, it is not even loaded, and nobody lacks it. Candidates' rows of a table that lies
    beside the models are read here, for those that are scored.
    """

    def __init__(self, ranker: Ranker | None, k: int, tables: BesideTables) -> None:
        super().__init__()
        self.ranker, self.k, self.tables = ranker, k, tables
        self.beside: tuple[str, ...] = ()
        self.of_user: dict[str, str] = {}
        self.of_candidate: dict[str, str] = {}
        if ranker is not None:
            self.of_user = {name: encoded(name) for name in ranker.spec.user.packed("user_")}
            self.beside = tuple(ranker.spec.candidate.embeddings)
            candidate = ranker.spec.candidate.without(self.beside)
            self.of_candidate = {name: encoded(name) for name in candidate.packed("candidate_")}
        self.reads = (
            "quality",
            "like_item_id",
            "candidate_mask",
            *(["candidate_ids", EMBEDDING_VERSION] if self.beside else []),
            *self.of_user.values(),
            *self.of_candidate.values(),
        )

    @property
    def writes(self) -> Schema:
        """`ranking_scores` float32 (B,K), 0 where there is none, whether all is known that the order is by,
        and whether a candidate's row of a table could not be read, both (B,1)."""
        flags = (tensor(name, np.bool_, 1) for name in (IS_RANKED, CANDIDATES_LACK_EMBEDDINGS))
        return Schema([tensor("ranking_scores", np.float32, self.k), *flags])

    def load_artifacts(self, artifact_path: str | None = None) -> None:
        """Loads the ranker."""
        del artifact_path
        if self.ranker is not None:
            self.ranker.open()

    def run(  # type: ignore[override]
        self, quality: Array, like_item_id: Array, candidate_mask: Array, **tensors: Array
    ) -> Tensors:
        """Scores the users who are to be ranked; of the candidates, as many as the longest list has."""
        scores = np.zeros(candidate_mask.shape, dtype=np.float32)
        is_lacking = {CANDIDATES_LACK_EMBEDDINGS: np.zeros(quality.shape, dtype=np.bool_)}
        if self.ranker is None:
            return {"ranking_scores": scores, IS_RANKED: like_item_id == PAD_ID, **is_lacking}
        is_ranked = (quality > 0) & (like_item_id == PAD_ID)
        rows = (is_ranked[:, 0] & candidate_mask[:, 0]).nonzero()[0]
        if len(rows):
            width = int(candidate_mask[rows].any(axis=0).nonzero()[0][-1]) + 1
            users: Any = slice(None) if len(rows) == len(quality) else rows
            inputs = {name: tensors[given][users] for name, given in self.of_user.items()}
            inputs |= {name: tensors[given][users, :width] for name, given in self.of_candidate.items()}
            for name in self.beside:
                version = int(tensors[EMBEDDING_VERSION][0, 0])
                read, lacks = self.tables.read(name, tensors["candidate_ids"][users, :width], version)
                inputs[name] = read[RANKER]
                is_lacking[CANDIDATES_LACK_EMBEDDINGS][users, 0] |= lacks.any(axis=1)
            scores[rows, :width] = self.ranker.run(inputs)
        self._check_range(scores[candidate_mask])
        live = np.where(candidate_mask, scores, np.float32(0))
        return {"ranking_scores": live, IS_RANKED: is_ranked, **is_lacking}

    def fallback(self, quality: Array, candidate_mask: Array, **_: Array) -> Tensors:  # type: ignore[override]
        """Ranks nobody."""
        nobody = np.zeros(quality.shape, dtype=np.bool_)
        scores = np.zeros(candidate_mask.shape, dtype=np.float32)
        return {"ranking_scores": scores, IS_RANKED: nobody, CANDIDATES_LACK_EMBEDDINGS: nobody.copy()}

    def _check_range(self, live: Array) -> None:
        if not ((live >= 0) & (live <= 1)).all():
            message = f"the ranker gave scores outside [0,1], from {live.min()} to {live.max()}"
            raise StageError(ErrorCode.CONTRACT, self.name, message)
