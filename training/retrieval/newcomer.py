"""Where an unknown user stands: the vector whose scores follow what all users chose of late."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from contract.arrays import Doubles, Floats


def newcomer(
    vectors: Floats, shares: Doubles, temperature: float, direction: Floats, gate: float
) -> tuple[Floats, float]:
    """Fits the user of whom nothing is known to the items' shares of what was chosen.

    Takes item vectors (I, D + 1), shares (I,) that sum to 1, and where to start: a direction (D,) and the
    gate's logit. Gives both such that softmax(score / temperature) is likeliest to have drawn the shares. The
    steps of training are too noisy for this one user, whose items are all the popular ones.
    """
    cosines, prior = vectors[:, :-1].astype(np.float64), vectors[:, -1].astype(np.float64)

    def loss(point: Doubles) -> tuple[float, Doubles]:
        length = max(float(np.linalg.norm(point[:-1])), 1e-6)  # nothing to follow: all were chosen alike
        unit, weight = point[:-1] / length, 2 / (1 + np.exp(-point[-1]))
        logits = (cosines @ unit + weight * prior) / temperature
        logits -= logits.max()
        chances = np.exp(logits)
        total = chances.sum()
        slope = (chances / total - shares) / temperature
        along = cosines.T @ slope
        gradient = np.append(
            (along - unit * (unit @ along)) / length, (prior @ slope) * weight * (1 - weight / 2)
        )
        return float(np.log(total) - shares @ logits), gradient

    start = np.append(direction / max(float(np.linalg.norm(direction)), 1e-6), gate)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return best[:-1].astype(np.float32), float(np.clip(best[-1], -8, 8))
