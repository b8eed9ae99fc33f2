"""Fits how a slate is ordered, on the validation part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from contract.arrays import Doubles, Floats
from contract.bundle import OrderSpec
from contract.ordering import log_odds

FEWEST_CLICKS = 30
"""Clicks under which nothing is fitted: three numbers would follow noise."""
RIDGE = 1e-4


def fit_ordering(
    ranking_scores: Floats, retrieval_scores: Floats, clicked: npt.NDArray[np.bool_]
) -> OrderSpec:
    """Takes scores and outcomes of retrieved items, all (rows,), gives the likeliest weights, none negative.

    With too few clicks the slate keeps the ranker's order.
    """
    if clicked.sum() < FEWEST_CLICKS or clicked.all():
        return OrderSpec()
    features = np.stack([log_odds(ranking_scores), retrieval_scores.astype(np.float64)], axis=1)
    scale = np.maximum(features.std(axis=0), 1e-6)
    features = features / scale

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        z = features @ weights[:2] + weights[2]
        p = 1 / (1 + np.exp(-z))
        slope = (p - clicked) / len(z)
        gradient = np.append(features.T @ slope, slope.sum())
        gradient[:2] += RIDGE * weights[:2]
        value = float(np.mean(np.logaddexp(0, z) - clicked * z) + RIDGE / 2 * weights[:2] @ weights[:2])
        return value, gradient

    bounds = [(0.0, None), (0.0, None), (None, None)]
    best = minimize(loss, np.array([1.0, 0.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    ranking, retrieval = best[:2] / scale
    return OrderSpec(ranking=float(ranking), retrieval=float(retrieval), intercept=float(best[2]))
