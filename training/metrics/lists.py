"""Ranked-list metrics of retrieval, per user, and a bootstrap interval of their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from contract.arrays import Doubles, Ints

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Scorer = Callable[[Ints], npt.NDArray[np.float32]]
"""Takes rows of users (B,), gives their scores of the whole catalogue, float32 (B,I)."""

CUTOFFS = (10, 100)


def top_k(scores: npt.NDArray[np.float32], k: int) -> Ints:
    """Takes scores (B,I), gives the positions of the `k` highest per row, best first; ties by position.

    Where fewer than `k` are finite, the tail is -1.
    """
    k = min(k, scores.shape[1])
    scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    above, equal = scores > least, scores == least
    # Of those that tie with the last one, the first by position fill up.
    missing = k - above.sum(axis=1, dtype=np.int32)[:, None]
    top = np.nonzero(above | (equal & (equal.cumsum(axis=1, dtype=np.int32) <= missing)))[1].reshape(-1, k)
    values = np.take_along_axis(scores, top, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    best: Ints = np.take_along_axis(top, order, axis=1)
    return np.where(np.isfinite(np.take_along_axis(values, order, axis=1)), best, -1)


def recall_at(hits: npt.NDArray[np.bool_], relevant: Ints, k: int) -> Doubles:
    """Takes hits (B,K) best first and the number of relevant items (B,), gives the found share of them, (B,).

    A user with nothing relevant is NaN.
    """
    found = hits[:, :k].sum(axis=1)
    return np.where(relevant > 0, found / np.maximum(relevant, 1), np.nan)


def ndcg_at(hits: npt.NDArray[np.bool_], relevant: Ints, k: int) -> Doubles:
    """Takes hits (B,K) best first and the number of relevant items (B,), gives gain over ideal gain, (B,).

    Gains are 0 or 1; the ideal list holds min(relevant, k) hits. A user with nothing relevant is NaN.

    Source: Jarvelin and Kekalainen 2002, equation 4, with a base-2 logarithm of rank + 1.
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    gain = hits[:, :k] @ discounts[: hits.shape[1]]
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(relevant, k)]
    return np.where(relevant > 0, gain / np.where(relevant > 0, ideal, 1), np.nan)


def list_metrics(lists: Ints, relevant: csr_matrix, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, Doubles]:
    """Scores ready-made lists of item positions (B,K), best first, -1 in the tail, against `relevant` (B,I).

    Returns `recall@k` and `ndcg@k` per user, (B,), such as `recall@100`.
    """
    rows = np.arange(len(lists))[:, None]
    hits = (relevant[rows, np.maximum(lists, 0)].toarray() > 0) & (lists >= 0)
    counts = np.asarray((relevant > 0).sum(axis=1)).ravel()
    metrics = {f"recall@{k}": recall_at(hits, counts, k) for k in cutoffs}
    return metrics | {f"ndcg@{k}": ndcg_at(hits, counts, k) for k in cutoffs}


def ranked(scorer: Scorer, seen: csr_matrix, k: int, rows: int = 512) -> Ints:
    """Ranks the whole catalogue for every user, without what they have seen, nonzero in `seen` (U,I).

    `scorer` is asked for `rows` users at a time. Gives each one's `k` best positions (U,K), -1 in the tail.
    """
    parts = [np.zeros((0, min(k, seen.shape[1])), dtype=np.int64)]
    for start in range(0, seen.shape[0], rows):
        users = np.arange(start, min(start + rows, seen.shape[0]))
        scores = np.array(scorer(users), dtype=np.float32)
        scores[seen[users].toarray() > 0] = -np.inf
        parts.append(top_k(scores, k))
    return np.concatenate(parts)


def retrieval_metrics(
    scorer: Scorer,
    relevant: csr_matrix,
    seen: csr_matrix,
    cutoffs: tuple[int, ...] = CUTOFFS,
    rows: int = 512,
) -> dict[str, Doubles]:
    """Ranks as `ranked` does and scores the lists against `relevant` (U,I); see `list_metrics`."""
    return list_metrics(ranked(scorer, seen, max(cutoffs), rows), relevant, cutoffs)


def means(metrics: Mapping[str, Doubles]) -> dict[str, float]:
    """Takes metrics per user, gives their means over the users with something relevant."""
    return {name: float(np.nanmean(values)) for name, values in metrics.items()}


def bootstrap(
    values: Doubles, *, seed: int = 0, samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Takes a metric per user, gives the interval of its mean under resampling of users (percentile method).

    Users without a value (NaN) are left out.

    Source: Efron and Tibshirani 1993, section 13.3.
    """
    known = values[~np.isnan(values)]
    rng = np.random.default_rng(seed)
    resampled = [known[rng.integers(0, len(known), len(known))].mean() for _ in range(samples)]
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
