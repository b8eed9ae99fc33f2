"""Encodes the user: raw columns into codes, codes into the user vector."""

from __future__ import annotations

import numpy as np
from merlin.schema import Schema

from ensemble.bundle import Tower
from ensemble.stage import Array, Stage, Tensors, tensor
from ensemble.stages.lookup import encoded
from training.encoders import Encoders
from training.fields import Field


class EncodeUser(Stage):
    """Encodes what is known of user and context for both models, and runs the user tower.

    A value that training never saw has the out-of-vocabulary code, a missing one the null code: an unknown
    user gets the vector that training gave to withheld ids. A tower that fails, fails the request.
    """

    def __init__(
        self, tower: Tower, encoders: Encoders, features: tuple[str, ...], vector_width: int
    ) -> None:
        """Takes the request's columns that either model reads."""
        super().__init__()
        self.tower, self.encoders, self.features, self.vector_width = tower, encoders, features, vector_width
        self.reads = features

    @property
    def writes(self) -> Schema:
        """The codes of each column, and `user_vector` (B,D)."""
        columns = [_encoded_tensor(self.encoders.fields[name]) for name in self.features]
        return Schema([*columns, tensor("user_vector", np.float32, self.vector_width)])

    def load_artifacts(self, artifact_path: str | None = None) -> None:
        """Loads the user tower."""
        del artifact_path
        self.tower.open()

    def run(self, **columns: Array) -> Tensors:
        """Encodes each column, then runs the tower on those that it takes."""
        codes = {}
        for name, raw in columns.items():
            is_list = self.encoders.fields[name].kind == "list"
            codes[name] = self.encoders.encode(name, raw if is_list else raw[:, 0])
        vectors = self.tower({name: codes[name] for name in self.tower.features})
        tensors = {encoded(name): code if code.ndim > 1 else code[:, None] for name, code in codes.items()}
        return tensors | {"user_vector": vectors}


def _encoded_tensor(field: Field) -> object:
    dtype = np.float32 if field.kind == "numeric" else np.int64
    return tensor(encoded(field.name), dtype, field.length if field.kind == "list" else 1)
