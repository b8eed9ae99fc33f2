"""Metrics of predicted probabilities: how well they order exposures, and whether they come true."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from contract.arrays import Array


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Gives the chance that a positive scores above a negative, ties counting half; NaN without both.

    Source: Hanley and McNeil 1982; the Mann-Whitney statistic from average ranks.
    """
    y = np.asarray(labels) == 1
    positives, negatives = int(y.sum()), int((~y).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(np.asarray(scores, dtype=np.float64))
    return float((ranks[y].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def gauc(users: npt.ArrayLike, labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Averages the AUC of each user with both classes, weighted by the user's rows; NaN without such a user.

    Source: Zhu et al. 2017, equation 3, with exposures as the weight.
    """
    order = np.lexsort((np.asarray(scores, dtype=np.float64), np.asarray(users)))
    user, score = np.asarray(users)[order], np.asarray(scores, dtype=np.float64)[order]
    y = (np.asarray(labels)[order] == 1).astype(np.float64)
    _, group, rows = np.unique(user, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)
    # Ties share the mean of their ranks: runs of equal scores within a user.
    is_new = np.concatenate([[True], (np.diff(group) != 0) | (np.diff(score) != 0)])[: len(y)]
    run = np.cumsum(is_new) - 1
    sizes = np.bincount(run) if len(y) else np.zeros(0)
    first = np.flatnonzero(is_new)
    ranks = (first + (sizes + 1) / 2)[run] - starts[group]
    positives = np.bincount(group, y, len(rows))
    negatives = rows - positives
    sums = np.bincount(group, ranks * y, len(rows))
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan")
    areas = (sums - positives * (positives + 1) / 2)[both] / (positives * negatives)[both]
    return float(np.average(areas, weights=rows[both]))


def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Gives the mean negative log likelihood, nats per row; probabilities are kept 1e-7 from 0 and 1."""
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-7, 1 - 1e-7)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def reliability(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10
) -> list[dict[str, float]]:
    """Cuts rows into `bins` of equal size by probability; gives `rows`, `predicted`, `observed` of each."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    parts = np.array_split(np.argsort(p, kind="stable"), min(bins, max(len(p), 1)))
    return [
        {"rows": float(len(at)), "predicted": float(p[at].mean()), "observed": float(y[at].mean())}
        for at in parts
        if len(at)
    ]


def calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> float:
    """Averages, over bins of equal size, how far the predicted is from the observed frequency.

    Source: Naeini et al. 2015, expected calibration error, with equal-mass bins.
    """
    table = reliability(labels, probabilities, bins)
    rows = np.array([row["rows"] for row in table])
    gaps = np.array([abs(row["predicted"] - row["observed"]) for row in table])
    return float((rows * gaps).sum() / rows.sum()) if len(table) else float("nan")


def ranking_metrics(users: Array, labels: Array, probabilities: Array) -> dict[str, float]:
    """Gives `auc`, `gauc`, `log_loss` and `calibration_error` of rows (rows,)."""
    return {
        "auc": auc(labels, probabilities),
        "gauc": gauc(users, labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
        "calibration_error": calibration_error(labels, probabilities),
    }


def bootstrap_users(
    metric: Callable[[npt.NDArray[np.int64]], float],
    users: Array,
    *,
    seed: int = 0,
    samples: int = 200,
    level: float = 0.95,
) -> tuple[float, float]:
    """Gives the interval of a metric when users are drawn again, each with all rows (percentile method).

    `metric` takes row numbers, repeated where a user is drawn repeatedly.

    Source: Efron and Tibshirani 1993, section 13.3; clusters are drawn because a user's rows are alike.
    """
    _, group = np.unique(users, return_inverse=True)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(group))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(samples):
        drawn = rng.integers(0, len(parts), len(parts))
        values.append(metric(np.concatenate([parts[i] for i in drawn])))
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
