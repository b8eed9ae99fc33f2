"""What a ranking model does. One that does this is a file of its own and a line in `training/models.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from contract.arrays import Array
from contract.bundle import RankerSpec
from training.examples.ranking import RankingExamples


@runtime_checkable
class RankingModel(Protocol):
    """A fitted model of how likely the target is; a row's score depends on that row alone.

    Both predictions take encoded columns, (rows,) or for lists (rows, S), and give P, float32 (rows,).
    """

    @property
    def name(self) -> str:
        """What tables of metrics call it."""

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that it reads."""

    def predict(self, arrays: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """Predicts exposures: items that were chosen to be shown, their context known."""

    def predict_candidates(self, arrays: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """Predicts retrieved candidates: what is served."""

    def to_onnx(self, spec: RankerSpec) -> onnx.ModelProto:
        """Builds the graph behind `predict_candidates`: inputs as `spec` packs them, `spec.output` (B,K)."""


FitRanking = Callable[[RankingExamples, int], RankingModel]
"""Fits a model on examples with a seed: the same seed, the same model."""
