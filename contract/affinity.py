"""User-item features: how a candidate relates to the user's recent items, in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from contract import names
from contract.arrays import Array, Bools, Floats
from contract.dataset import Dataset

Counts = npt.NDArray[np.int8] | npt.NDArray[np.int32]
LISTS = tuple(names.COMPARED)
BITS = 64
"""Distinct values up to which a list is compared as bits."""


def affinity_columns(dataset: Dataset) -> tuple[str, ...]:
    """Lists the item columns that are compared: the item itself, and those marked `is_affinity`."""
    return (names.ITEM_ID, *dataset.affinity)


def user_item_feature_names(dataset: Dataset) -> tuple[str, ...]:
    """Lists the user-item features in their order."""
    return tuple(names.matches_of(column, recent) for column in affinity_columns(dataset) for recent in LISTS)


def user_item_features(
    dataset: Dataset,
    recents: Mapping[str, Mapping[str, Array]],
    candidates: Mapping[str, Array],
) -> dict[str, Floats]:
    """Counts, per candidate, the user's recent items that share a value with it; float32 (B,K) per feature.

    `recents` maps each of `LISTS` to the columns of those items, raw: (B,S), or (B,S,L) where the column is
    a list; `candidates` holds the same columns as (B,K) or (B,K,L). Both include `item_id`. Null and padding
    are `NULL_INT` in int64 columns and None in strings, and match nothing. A recent item counts once, however
    many of its elements match. Serving may give smaller columns that match alike: narrower integers, whose
    null is their least value, and lists of few distinct values as bits of a uint64, (B,S) and (B,K).
    """
    counts = user_item_counts(dataset, recents, candidates)
    return {name: count.astype(np.float32) for name, count in counts.items()}


def user_item_counts(
    dataset: Dataset,
    recents: Mapping[str, Mapping[str, Array]],
    candidates: Mapping[str, Array],
) -> dict[str, Counts]:
    """Gives the same as small integers (B,K)."""
    counts = {}
    for column in affinity_columns(dataset):
        of_lists = [recents[name][column] for name in LISTS]
        shared = _shared(np.concatenate(of_lists, axis=1), candidates[column])  # at once: half as many steps
        start = 0
        for name, recent in zip(LISTS, of_lists, strict=True):
            end = start + recent.shape[1]
            counts[names.matches_of(column, name)] = _counts(shared[:, start:end])
            start = end
    return counts


def as_bits(numbered: npt.NDArray[np.int32], is_known: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Takes lists of numbers below `BITS` and which of them count, (rows, L), gives the sets, (rows,)."""
    bits = np.left_shift(np.uint64(1), numbered.clip(0).astype(np.uint64))
    sets: npt.NDArray[np.uint64] = np.bitwise_or.reduce(np.where(is_known, bits, np.uint64(0)), axis=1)
    return sets


def _shared(recent: Array, candidate: Array) -> Bools:
    """Says which entries of `recent` (B,S[,L]) share a value with each of `candidate` (B,K[,L]), (B,S,K)."""
    if recent.dtype.kind == "u":
        common: Bools = (recent[:, :, None] & candidate[:, None, :]) != 0
        return common
    left = recent if recent.ndim == 3 else recent[:, :, None]
    right = candidate if candidate.ndim == 3 else candidate[:, :, None]
    shared: Bools | None = None
    for j in range(right.shape[2]):
        values = right[:, None, :, j]
        is_null = _is_null(values)
        for i in range(left.shape[2]):
            equal = left[:, :, None, i] == values
            if is_null.any():
                equal &= ~is_null
            shared = equal if shared is None else shared | equal
    return np.zeros((len(left), left.shape[1], right.shape[1]), np.bool_) if shared is None else shared


def _counts(shared: Bools) -> Counts:
    """Counts over the second axis of (B,S,K); bytes are added several times faster than booleans counted."""
    narrow = np.int8 if shared.shape[1] < 128 else np.int32
    counts: Counts = shared.view(np.int8).sum(axis=1, dtype=narrow)
    return counts


def _is_null(values: Array) -> Bools:
    """Marks nulls: the least value of an integer column, which for int64 is `NULL_INT`, None in strings."""
    null = np.iinfo(values.dtype).min if values.dtype.kind == "i" else None
    missing: Bools = values == null
    return missing
