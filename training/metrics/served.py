"""What all lists together show: how much of the catalogue, how evenly, and how different within a list."""

from __future__ import annotations

import numpy as np

from contract.arrays import Doubles, Floats, Ints


def exposures(lists: Ints, items: int) -> Ints:
    """Takes lists of item positions (U,K), -1 in the tail, gives how often each of `items` is shown, (I,)."""
    shown: Ints = np.bincount(lists[lists >= 0], minlength=items).astype(np.int64)
    return shown


def coverage(shown: Ints) -> float:
    """Takes how often each item is shown (I,), gives the share of items that are shown at all."""
    return float((shown > 0).mean())


def gini(shown: Ints) -> float:
    """Takes how often each item is shown (I,), gives 0 where all are alike, near 1 where one takes all.

    Source: Gini's index as the mean absolute difference over twice the mean.
    """
    ascending = np.sort(shown).astype(np.float64)
    count, total = len(ascending), ascending.sum()
    if not total:
        return float("nan")
    return float(2 * (np.arange(1, count + 1) @ ascending) / (count * total) - (count + 1) / count)


def diversity(lists: Ints, vectors: Floats) -> Doubles:
    """Takes lists of item positions (U,K), -1 in the tail, and item vectors (I,D).

    Gives the mean of 1 - cosine over the pairs of a list, (U,); NaN for one of less than two items.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    live = lists >= 0
    masked = np.where(live[:, :, None], unit[np.maximum(lists, 0)], 0).astype(np.float64)
    count = live.sum(axis=1)
    pairs = count * (count - 1)
    # All pairs at once: the squared length of the sum holds each cosine twice, and each item with itself.
    alike = (masked.sum(axis=1) ** 2).sum(axis=1) - (masked**2).sum(axis=(1, 2))
    return np.where(pairs > 0, 1 - alike / np.maximum(pairs, 1), np.nan)
