"""LightGBM on the ranker's rates, counts, matches and small categoricals."""

from __future__ import annotations

from collections.abc import Mapping

import lightgbm
import numpy as np
import numpy.typing as npt

from contract.encoders import Field
from training.baselines.design import Columns, numerics, small_categoricals
from training.examples.ranking import RankingExamples

PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
}
MOST_TREES = 1000
PATIENCE = 40
"""Trees without a gain on validation, after which no more are grown."""


class LightGBMRanker:
    """Fitted gradient-boosted trees."""

    def __init__(self, fields: Mapping[str, Field], booster: lightgbm.Booster) -> None:
        self.fields, self.booster = fields, booster

    def predict(self, arrays: Columns) -> npt.NDArray[np.float32]:
        """Takes encoded columns (rows,), gives P of each, (rows,)."""
        probabilities = np.asarray(self.booster.predict(_design(self.fields, arrays)))
        return probabilities.astype(np.float32)


def fit_lightgbm(examples: RankingExamples, seed: int = 0) -> LightGBMRanker:
    """Grows trees on labels (rows,), all known, until validation gains no more."""
    fields, labels = examples.fields, examples.labels
    grown = lightgbm.Dataset(_design(fields, examples.train), labels)
    checked = []
    if has_validation := len(examples.validation_labels) > 0:
        design = _design(fields, examples.validation)
        checked = [grown.create_valid(design, examples.validation_labels)]
    booster = lightgbm.train(
        PARAMETERS | {"seed": seed, "min_data_in_leaf": min(100, max(1, len(labels) // 20))},
        grown,
        MOST_TREES if has_validation else 100,
        valid_sets=checked,
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)] if has_validation else [],
    )
    return LightGBMRanker(fields, booster)


def _design(fields: Mapping[str, Field], arrays: Columns) -> npt.NDArray[np.float32]:
    """Gives numerics and, as numbers, the codes of the small categoricals: the frequent ones are small."""
    codes = [arrays[name] for name in small_categoricals(fields, arrays)]
    return np.column_stack([numerics(fields, arrays), *codes]).astype(np.float32)
