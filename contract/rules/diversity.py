"""Diversity while places are filled: how much a candidate is like those before it.

Source: Carbonell and Goldstein 1998, The Use of MMR, Diversity-Based Reranking.
"""

from __future__ import annotations

import numpy as np

from contract.arrays import Doubles, Floats


def relevance(values: Doubles) -> tuple[Doubles, float]:
    """Brings values (C,) to [0,1], the worst and the best at the ends; gives the width of the interval as
    well."""
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    width = high - low if high > low else 1.0
    return (values - low) / width, width


class Likeness:
    """The greatest cosine of each candidate with the items before it, 0 while there is none like it."""

    def __init__(self, vectors: Floats, before: Floats) -> None:
        """Takes vectors of the candidates (C,D), and of the items before the first place, (H,D); a vector of
        zeros is like none."""
        vectors = unit(vectors)
        self.cosines = vectors @ vectors.T
        self.greatest = np.zeros(len(vectors), dtype=np.float32)
        if len(before):
            np.maximum(self.greatest, (vectors @ unit(before).T).max(axis=1), out=self.greatest)

    def add(self, candidate: int) -> None:
        """Puts a candidate on the next place."""
        np.maximum(self.greatest, self.cosines[candidate], out=self.greatest)


def unit(vectors: Floats) -> Floats:
    """Gives vectors (..., D) unit length; zeros stay."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors))[..., None]
    return np.divide(vectors, np.where(lengths > 0, lengths, 1), dtype=np.float32)
