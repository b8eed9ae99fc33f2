"""Logistic regression on the ranker's rates, counts, matches and small categoricals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from contract.encoders import Field
from training.baselines.design import Columns, one_hot
from training.examples.ranking import RankingExamples
from training.metrics.ranking import log_loss

PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths tried of the L2 penalty; validation chooses."""


class LogisticRanker:
    """A fitted logistic regression."""

    def __init__(self, fields: Mapping[str, Field], model: LogisticRegression) -> None:
        self.fields, self.model = fields, model

    def predict(self, arrays: Columns) -> npt.NDArray[np.float32]:
        """Takes encoded columns (rows,), gives P of each, (rows,)."""
        probabilities: npt.NDArray[np.float64] = self.model.predict_proba(one_hot(self.fields, arrays))[:, 1]
        return probabilities.astype(np.float32)


def fit_logistic_regression(examples: RankingExamples, seed: int = 0) -> LogisticRanker:
    """Fits one model per penalty on labels (rows,), all known; gives the best on validation."""
    fields, labels = examples.fields, examples.labels
    design = one_hot(fields, examples.train)
    fitted = [
        LogisticRanker(
            fields, LogisticRegression(C=c, solver="newton-cholesky", random_state=seed).fit(design, labels)
        )
        for c in PENALTIES
    ]
    if not len(examples.validation_labels):
        return fitted[-1]
    return min(
        fitted, key=lambda ranker: log_loss(examples.validation_labels, ranker.predict(examples.validation))
    )
