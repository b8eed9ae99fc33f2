"""What several sources give, made one list of candidates. Training and the ensemble merge by the same code,
so that what is chosen on validation is what is served: numpy only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from contract.arrays import Bools, Floats, Ints, filled
from contract.bundle import SourceSpec
from contract.item_to_item import UNKNOWN, ItemToItem, Reached, ReachedSums, rank_weights

_LAST = 1e9
"""The turn of what has no share: after everything else."""
GROUP = 8
"""Scores of which the best stands for all, while it is estimated how many are good enough."""


class Merge:
    """Takes turns among sources, in proportion to their shares, until there are as many items as are wanted.

    Of the first K of the result, each source has its share of K at least, as far as it has so many; where two
    gave the same item, or one has no more, the next best of each follow in the same proportion.
    """

    def __init__(self, shares: Sequence[float], items: int) -> None:
        """Takes the sources' shares, each 0 or more, and I, the size of the catalogue."""
        self._shares = np.asarray(shares, dtype=np.float64)
        self._turns: dict[int, Ints] = {}
        self._places = np.zeros(items, dtype=np.int32)  # overwritten where it is read

    def merged(self, lists: Ints, width: int) -> Ints:
        """Takes a user's positions per source (S,W), best first, padded with `UNKNOWN`; gives those of all,
        each once, int64 (width,), padded."""
        flat = lists.ravel()[self._turns_of(lists.shape[1])]
        flat = flat[flat != UNKNOWN]
        turns = np.arange(len(flat), dtype=np.int32)
        self._places[flat[::-1]] = turns[::-1]  # of an item that comes twice, the first turn stays
        unique = flat[self._places[flat] == turns][:width]
        found = filled(width, UNKNOWN)
        found[: len(unique)] = unique
        return found

    def _turns_of(self, depth: int) -> Ints:
        """Gives the places in lists of this depth, (S * depth,), in the order of their turns."""
        if depth not in self._turns:
            ranks = np.arange(1, depth + 1)
            with np.errstate(divide="ignore"):
                due = np.minimum(ranks / self._shares[:, None], _LAST + ranks)
            self._turns[depth] = np.argsort(due.ravel(), kind="stable")
        return self._turns[depth]


def unknown_shares(specs: Sequence[SourceSpec], of_unknown: Collection[str]) -> list[float]:
    """Gives the sources' shares of the candidates of users of whom nothing is known: those that alone order
    them share evenly what new items leave; everyone's, where there are none."""
    if not of_unknown:
        return [spec.share for spec in specs]
    left = 1 - sum(spec.share for spec in specs if spec.kind == "new")
    theirs = left / len(of_unknown)
    return [
        spec.share if spec.kind == "new" else theirs if spec.name in of_unknown else 0.0 for spec in specs
    ]


def reached(table: ItemToItem, history: Ints, spec: SourceSpec) -> Reached:
    """Takes the positions of a user's items (H,), newest first, `UNKNOWN` where there is none, gives what
    they lead to, as the source's `newest`, `decay` and `normalisation` say."""
    history = history[: spec.newest]
    weights = rank_weights(len(history), spec.decay)
    found = table.reach(history, weights)
    divisor = _divisor(found, history, weights, len(table.items), spec)
    return found if divisor == 1 else found.divided_by(divisor)


def _divisor(found: Reached, history: Ints, weights: Floats, items: int, spec: SourceSpec) -> float:
    divisor = 1.0
    if spec.normalisation == "weights":
        divisor = float(weights[history != UNKNOWN].sum())
    elif spec.normalisation == "deviation":
        scores = found.scores.astype(np.float64)
        divisor = float(np.sqrt(max((scores @ scores) / items - (scores.sum() / items) ** 2, 0.0)))
    return divisor if divisor > 0 else 1.0


def best_reached(found: Reached, eligible: Bools, count: int) -> Ints:
    """Gives the `count` best of what was reached with a positive score and is eligible, best first, equal
    ones by position. `eligible` (I,) may go on behind the table's items."""
    if isinstance(found, ReachedSums):
        scores = found.sums[:-1]
        return best_first(scores * eligible[: len(scores)], count)
    scores = np.where(eligible[found.positions], found.scores, np.float32(0))
    return found.positions[best_first(scores, count)]


def best_first(scores: Floats, count: int) -> Ints:
    """Gives the places of the `count` greatest positive scores (N,), greatest first, equal ones in order."""
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    least = least_of_best(scores, count)
    (places,) = (scores >= least if least > 0 else scores > 0).nonzero()
    best: Ints = places[np.argsort(-scores[places], kind="stable")[:count]]
    return best


def least_of_best(scores: Floats, count: int) -> np.float32:
    """Gives a number that at least `count` of the scores (N,) reach, and few more; 1 or more are wanted.

    It is the `count`-th greatest of the maxima of small groups: each stands for one score of its own. Where
    there are not so many groups, it is -inf.
    """
    groups = len(scores) // GROUP
    if groups < count:
        return np.float32(-np.inf)
    maxima = scores[: groups * GROUP].reshape(GROUP, groups).max(axis=0)
    least: np.float32 = np.partition(maxima, groups - count)[groups - count]
    return least


def nearest_first(vectors: Floats, towards: Floats, eligible: Bools, count: int) -> Ints:
    """Gives the places of the `count` vectors (N,D) whose inner products with another (D,) are the greatest,
    greatest first, of those that are eligible, (N,)."""
    if not len(vectors):
        return np.zeros(0, dtype=np.int64)
    products = vectors @ towards
    return best_first(np.where(eligible, products - products.min() + np.float32(1), np.float32(0)), count)
