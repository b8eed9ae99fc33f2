"""What several sources give, made one list of candidates. Training and the ensemble merge by the same code,
so that what is chosen on validation is what is served: numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contract.arrays import Floats, Ints
from contract.bundle import SourceSpec
from contract.item_to_item import UNKNOWN, ItemToItem, Reached, rank_weights

_LAST = 1e9
"""The turn of what has no share: after everything else."""


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
        kept = flat[self._places[flat] == turns][:width]
        found = np.full(width, UNKNOWN, dtype=np.int64)
        found[: len(kept)] = kept
        return found

    def _turns_of(self, depth: int) -> Ints:
        """Gives the places in lists of this depth, (S * depth,), in the order of their turns."""
        if depth not in self._turns:
            ranks = np.arange(1, depth + 1)
            with np.errstate(divide="ignore"):
                due = np.minimum(ranks / self._shares[:, None], _LAST + ranks)
            self._turns[depth] = np.argsort(due.ravel(), kind="stable")
        return self._turns[depth]


def reached(table: ItemToItem, history: Ints, spec: SourceSpec) -> Reached:
    """Takes the positions of a user's items (H,), newest first, `UNKNOWN` where there is none, gives what
    they lead to, as the source's `newest`, `decay` and `normalisation` say."""
    history = history[: spec.newest]
    weights = rank_weights(len(history), spec.decay)
    found = table.reach(history, weights)
    divisor = _divisor(found, weights[history != UNKNOWN], len(table.items), spec)
    return found if divisor == 1 else found.divided_by(divisor)


def _divisor(found: Reached, weights: Floats, items: int, spec: SourceSpec) -> float:
    divisor = 1.0
    if spec.normalisation == "weights":
        divisor = float(weights.sum())
    elif spec.normalisation == "deviation":
        scores = found.scores.astype(np.float64)
        divisor = float(np.sqrt(max((scores @ scores) / items - (scores.sum() / items) ** 2, 0.0)))
    return divisor if divisor > 0 else 1.0


def best_first(scores: Floats, count: int) -> Ints:
    """Gives the places of the `count` greatest positive scores (N,), greatest first, equal ones in order."""
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    least = np.partition(scores, len(scores) - count)[len(scores) - count] if len(scores) > count else 0
    places = np.flatnonzero((scores >= least) & (scores > 0))
    best: Ints = places[np.argsort(-scores[places], kind="stable")[:count]]
    return best
