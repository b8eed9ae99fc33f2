"""Weights of a sum of features that orders lists, fitted to what was chosen of each."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from contract.arrays import Bools, Doubles, Floats

RIDGE = 1e-3
FOLDS = 4
"""Parts of the users: what is fitted on the others is judged on each."""


def fit_listwise(
    features: Floats | Doubles,
    clicked: Bools,
    live: Bools,
    *,
    offset: Doubles | None = None,
    ridge: float = RIDGE,
    least: float | None = 0.0,
) -> Doubles:
    """Gives the weights (F,) that are the likeliest to have drawn a user's clicks from their candidates, a
    softmax over the list; so a user with many clicks counts no more than another.

    Takes features (U,K,F), what was clicked and where there is a candidate, (U,K), and what is added to each
    sum, (U,K). No weight is below `least`; half of `ridge` times their squares is added to the mean loss.
    Source: Cao et al. 2007, ListNet, top one.
    """
    some = clicked.any(axis=1)
    if not some.any():
        return np.zeros(features.shape[2])
    flat = features[some].reshape(-1, features.shape[2]).astype(np.float64)
    live = live[some]
    added = np.zeros(live.shape) if offset is None else offset[some]
    wanted = clicked[some] / clicked[some].sum(axis=1, keepdims=True)

    def loss(point: Doubles) -> tuple[float, Doubles]:
        z = np.where(live, (flat @ point).reshape(live.shape) + added, -np.inf)
        z -= z.max(axis=1, keepdims=True)
        chances = np.exp(z)
        total = chances.sum(axis=1, keepdims=True)
        slope = (chances / total - wanted) / len(live)
        value = (np.log(total[:, 0]) - (wanted * np.where(live, z, 0)).sum(axis=1)).mean()
        return float(value + ridge / 2 * point @ point), slope.ravel() @ flat + ridge * point

    start = np.full(flat.shape[1], 0.1 if least == 0 else 0.0)
    bounds = [(least, None)] * len(start)
    weights: Doubles = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return weights
