"""What a retrieval model does. One that does this is a file of its own and a line in `training/models.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from contract.arrays import Array
from contract.bundle import ModelSpec
from contract.encoders import Field
from training.examples.positives import RetrievalExamples

Vectors = npt.NDArray[np.float32]


@runtime_checkable
class RetrievalModel(Protocol):
    """Fitted encoders of users and of items: the larger their inner product, the likelier the choice."""

    @property
    def name(self) -> str:
        """What tables of metrics call it."""

    @property
    def user_features(self) -> tuple[str, ...]:
        """The columns that `encode_users` reads."""

    @property
    def item_features(self) -> tuple[str, ...]:
        """The columns that `encode_items` reads."""

    @property
    def score_range(self) -> tuple[float, float]:
        """Bounds of the inner product of any user with any item."""

    def encode_users(self, arrays: Mapping[str, Array]) -> Vectors:
        """Takes encoded columns, (U,) or for lists (U,S), gives vectors (U,D)."""

    def encode_items(self, arrays: Mapping[str, Array]) -> Vectors:
        """Takes encoded columns, (I,) or for lists (I,L), gives vectors (I,D)."""

    def users_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Builds the graph behind `encode_users`: inputs as `spec` packs them, `spec.output` (rows, D)."""

    def items_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Builds the graph behind `encode_items`."""


@runtime_checkable
class CountsPopularity(Protocol):
    """A retrieval model whose items' vectors end with how popular they are, which may be counted anew."""

    @property
    def item_popularity(self) -> Vectors:
        """How popular every item code is, (item codes,)."""

    def renew_popularity(self, popularity: Vectors) -> None:
        """Sets it."""


Validate = Callable[[RetrievalModel], float]
"""Takes the model as it stands, gives what training should maximise."""


class FitRetrieval(Protocol):
    """Fits a model on examples with a seed: the same seed, the same model."""

    def __call__(
        self,
        fields: Mapping[str, Field],
        examples: RetrievalExamples,
        catalogue: Mapping[str, Array],
        *,
        seed: int,
        validate: Validate | None = None,
    ) -> RetrievalModel:
        """`catalogue` holds the encoded columns of all items, in the order of their table; without `validate`
        there is nobody to look at before the end."""
