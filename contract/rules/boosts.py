"""Boosts: the odds of a score are multiplied, or an item comes after all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.arrays import Array, Bools, Doubles
from contract.filters import Filters
from contract.rules.attributes import ItemAttributes

LEAST = 1e-45
"""Below every float32 but 0: the logarithm of 0 is taken of it."""


@dataclass(frozen=True)
class Boosted:
    """C candidates in the order of their boosted scores: `order` (C,), best first; `values`, the logarithms
    of the scores, in that order; where the buried ones begin; and which candidates a boost is about
    that stand on another place than before, (C,)."""

    order: npt.NDArray[np.intp]
    values: Doubles
    buried: int
    is_moved: Bools


def factors(boosts: Sequence[tuple[Filters, float]], attributes: ItemAttributes, rows: Array) -> Doubles:
    """Gives what the odds of items, by their rows (C,), are multiplied by."""
    times = np.ones(len(rows))
    for filters, factor in boosts:
        times[attributes.passing(filters)[rows]] *= factor
    return times


def boosted(scores: Doubles, times: Doubles | None) -> Boosted:
    """Takes scores in [0,1], descending, and what the odds of each are multiplied by; 0 buries. Equal ones
    keep their order, and so do the buried."""
    places = np.arange(len(scores))
    values = np.log(np.maximum(scores, LEAST))
    if times is None or (times == 1).all():
        return Boosted(places, values, len(scores), np.zeros(len(scores), dtype=np.bool_))
    is_buried = times == 0
    odds = np.where(is_buried, 1.0, times) * scores
    raised = np.where((times == 1) | is_buried, scores, odds / np.maximum(1 - scores + odds, LEAST))
    order = np.lexsort((-raised, is_buried))
    is_moved = np.zeros(len(scores), dtype=np.bool_)
    is_moved[order] = (order != places) & (times[order] != 1)
    values = np.log(np.maximum(raised[order], LEAST))
    return Boosted(order, values, len(scores) - int(is_buried.sum()), is_moved)
