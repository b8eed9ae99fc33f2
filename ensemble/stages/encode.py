"""Encodes the user: raw columns into codes, codes into the user vector."""

from __future__ import annotations

import numpy as np
from merlin.schema import Schema

from contract.arrays import Array
from contract.encoders import Encoders
from ensemble.bundle import Ranker, Tower
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.lookup import encoded, packed_tensors


class EncodeUser(Stage):
    """Encodes what is known of user and context for both models, and runs the user tower.

    A value that training never saw has the out-of-vocabulary code, a missing one the null code: an unknown
    user gets the vector that training gave to withheld ids. A tower that fails, fails the request.
    """

    def __init__(self, tower: Tower, ranker: Ranker, encoders: Encoders, vector_width: int) -> None:
        super().__init__()
        self.tower, self.ranked, self.encoders = tower, ranker.spec.user, encoders
        self.vector_width = vector_width
        self.reads = tuple(dict.fromkeys((*tower.features, *self.ranked.columns)))

    @property
    def writes(self) -> Schema:
        """What the ranker takes of users, packed, and `user_vector` (B,D)."""
        packed = packed_tensors(self.ranked, "user_")
        return Schema([*packed, tensor("user_vector", np.float32, self.vector_width)])

    def load_artifacts(self, artifact_path: str | None = None) -> None:
        """Loads the user tower."""
        del artifact_path
        self.tower.open()

    def run(self, **columns: Array) -> Tensors:
        """Encodes each column, then runs the tower on those that it takes."""
        codes = {}
        for name, raw in columns.items():
            is_several = self.encoders.fields[name].kind in ("list", "embedding")
            codes[name] = self.encoders.encode(name, raw if is_several else raw[:, 0])
        packed = {encoded(name): array for name, array in self.ranked.pack(codes, "user_").items()}
        return packed | {"user_vector": self.tower(codes)}
