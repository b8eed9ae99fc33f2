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
    # A partition alone may keep any of several equal scores: look at all that tie with the last one.
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    widest = int((scores >= least).sum(axis=1).max(initial=k))
    kept = np.sort(np.argpartition(-scores, min(widest, scores.shape[1]) - 1, axis=1)[:, :widest], axis=1)
    values = np.take_along_axis(scores, kept, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    best: Ints = np.take_along_axis(kept, order, axis=1)
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
    wanted = relevant.toarray() > 0
    hits = np.take_along_axis(wanted, np.maximum(lists, 0), axis=1) & (lists >= 0)
    counts = wanted.sum(axis=1)
    metrics = {f"recall@{k}": recall_at(hits, counts, k) for k in cutoffs}
    return metrics | {f"ndcg@{k}": ndcg_at(hits, counts, k) for k in cutoffs}


def retrieval_metrics(
    scorer: Scorer,
    relevant: csr_matrix,
    seen: csr_matrix,
    cutoffs: tuple[int, ...] = CUTOFFS,
    rows: int = 512,
) -> dict[str, Doubles]:
    """Ranks the whole catalogue for every user, without what they have seen, and scores the lists.

    `relevant` and `seen` are (U,I) with nonzeros where true; `scorer` is asked for `rows` users at a time.
    Returns `recall@k` and `ndcg@k` per user, (U,).
    """
    parts = []
    for start in range(0, relevant.shape[0], rows):
        users = np.arange(start, min(start + rows, relevant.shape[0]))
        scores = np.array(scorer(users), dtype=np.float32)
        scores[seen[users].toarray() > 0] = -np.inf
        parts.append(list_metrics(top_k(scores, max(cutoffs)), relevant[users], cutoffs))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


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
