"""How what is served differs from what a bundle was made of: histograms of both, and two distances.

Training writes the bundle's reference, and the watch counts in the same bins: both say by `watched` what is
counted. The values are raw, as the feature store gives them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from contract import names
from contract.arrays import Array, Doubles, Floats, Ints
from contract.columns import Columns, Role
from contract.dataset import Dataset

REFERENCE_FILE = "reference.json"
USER_VECTOR_NORM, SCORES = "user_vector_norm", "scores"
SERVED, RETRIEVED = "served.", "retrieved."
"""Before an item column's name: its values of the items on the slates, and of those nearest to the users."""
NEAREST = 100
"""Items per user that count as retrieved."""
SLATE = 10
"""Places of a slate that are counted."""
_BINS, _VALUES = 10, 20
_PRODUCTS = 8_000_000
"""Products of users and items that are in memory at once."""
_PRIOR = 0.5
"""Added to every bin, so that an empty one has no infinite distance."""


class Histogram(BaseModel):
    """Counts in bins, one of each. `number`: nulls, then (-inf, edge], ..., (edge, inf). `value`: nulls, then
    `values`, then all others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["number", "value"]
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Array, *, is_number: bool) -> Histogram:
        """Takes raw values of any shape, chooses the bins: tenths of them, or the commonest values."""
        known = values[~_is_null(values)]
        if is_number:
            edges: Any = (
                np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else []
            )
            empty = cls(kind="number", edges=tuple(map(float, edges)), counts=())
        else:
            found, counts = np.unique(known.astype(str), return_counts=True)
            commonest = found[np.argsort(-counts, kind="stable")[:_VALUES]]
            empty = cls(kind="value", values=tuple(map(str, commonest)), counts=())
        return empty.model_copy(update={"counts": tuple(empty.count(values).tolist())})

    @property
    def labels(self) -> tuple[str, ...]:
        """What each bin holds."""
        if self.kind == "value":
            return ("null", *self.values, "other")
        uppers = [f"to {edge:.4g}" for edge in self.edges]
        return ("null", *uppers, f"above {self.edges[-1]:.4g}" if self.edges else "any")

    def count(self, values: Array) -> Ints:
        """Takes raw values of any shape, gives how many each bin holds, (bins,)."""
        is_null = _is_null(values)
        known = values[~is_null]
        if self.kind == "number":
            at, bins = np.searchsorted(self.edges, known.astype(np.float64)), len(self.edges) + 1
        else:
            order = np.argsort(self.values, kind="stable")
            ascending, texts = np.array(self.values, dtype=str)[order], known.astype(str)
            places = np.minimum(np.searchsorted(ascending, texts), max(len(ascending) - 1, 0))
            bins = len(self.values) + 1
            at = np.full(len(texts), bins - 1)
            if len(ascending):
                at = np.where(ascending[places] == texts, order[places], bins - 1)
        counted = np.bincount(at, minlength=bins)
        return np.asarray(np.concatenate([[is_null.sum()], counted]), dtype=np.int64)


class Reference(BaseModel):
    """The histograms of a bundle, by what they are of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    histograms: dict[str, Histogram] = {}

    @classmethod
    def of(cls, values: Mapping[str, Array], numbers: Collection[str]) -> Reference:
        """Takes raw values by name, and which of them are numbers."""
        return cls(
            histograms={name: Histogram.of(some, is_number=name in numbers) for name, some in values.items()}
        )

    def count(self, values: Mapping[str, Array]) -> dict[str, Ints]:
        """Counts values, by name; those that the bundle knows nothing of are left out."""
        return {
            name: self.histograms[name].count(some)
            for name, some in values.items()
            if name in self.histograms
        }


def shares(counts: Iterable[int] | Ints) -> Doubles:
    """Takes counts (bins,), gives their shares, none of them 0."""
    raised = np.asarray(counts, dtype=np.float64) + _PRIOR
    return np.asarray(raised / raised.sum())


def psi(former: Doubles, now: Doubles) -> float:
    """The population stability index of two distributions: 0 where they are alike; 0.1 is little, 0.25 much.

    Source: Siddiqi 2006, Credit Risk Scorecards; the sum of both Kullback-Leibler divergences.
    """
    return float(((now - former) * np.log(now / former)).sum())


def jensen_shannon(former: Doubles, now: Doubles) -> float:
    """The Jensen-Shannon divergence in bits: 0 where they are alike, 1 where they have nothing in common.

    Source: Lin 1991, Divergence Measures Based on the Shannon Entropy.
    """
    middle = (former + now) / 2
    return float((former * np.log2(former / middle) + now * np.log2(now / middle)).sum() / 2)


def watched(
    dataset: Dataset,
    users: Mapping[str, Array],
    vectors: Floats,
    served: Mapping[str, Array],
    retrieved: Mapping[str, Array],
    scores: Floats | None,
) -> dict[str, Array]:
    """Names what is counted: of users (B,) their features and their vectors (B,D); of items on slates (S,)
    their columns, of items retrieved (R,) the categories alone; and the scores of slates."""
    values: dict[str, Array] = {
        name: _cut(users[name], column.max_length)
        for name, column in {**dataset.user_profile, **dataset.user_activity}.items()
        if name in users and column.role is not Role.EMBEDDING
    }
    items = {**dataset.item_catalog, **dataset.item_activity}
    for prefix, columns in ((SERVED, served), (RETRIEVED, retrieved)):
        for name, column in items.items():
            is_counted = column.role in _ROLES[prefix]
            if is_counted and name in columns and columns[name].size:
                values[prefix + name] = _cut(columns[name], column.max_length)
    if vectors.size:
        values[USER_VECTOR_NORM] = np.linalg.norm(vectors, axis=1)
    if scores is not None and scores.size:
        values[SCORES] = scores
    return values


_ROLES = {
    SERVED: (Role.CATEGORICAL, Role.LIST, Role.NUMERIC),
    RETRIEVED: (Role.CATEGORICAL, Role.LIST),
}


def numbers_of(dataset: Dataset) -> set[str]:
    """Names those of `watched` that are numbers."""

    def numeric(columns: Columns) -> list[str]:
        return [name for name, column in columns.items() if column.role is Role.NUMERIC]

    of_items = numeric({**dataset.item_catalog, **dataset.item_activity})
    of_users = numeric({**dataset.user_profile, **dataset.user_activity})
    return {*of_users, *(SERVED + name for name in of_items), USER_VECTOR_NORM, SCORES}


def nearest(vectors: Floats, items: Floats) -> Ints:
    """Takes vectors of users (B,D) and of the catalogue (I,D), gives the places of the items nearest to each
    user, (B,R), in no order."""
    most, step = min(NEAREST, len(items)), max(1, _PRODUCTS // max(1, len(items)))
    found = np.empty((len(vectors), most), dtype=np.int64)
    for start in range(0, len(vectors), step):
        some = slice(start, start + step)
        found[some] = np.argpartition(-(vectors[some] @ items.T), most - 1, axis=1)[:, :most]
    return found


def _cut(values: Array, length: int) -> Array:
    """Keeps the first elements of a list; an empty one counts as one null, and padding as nothing."""
    if values.ndim == 1:
        return values
    elements = values[:, :length]
    is_null = _is_null(elements)
    is_counted = ~is_null
    is_counted[:, 0] |= is_null.all(axis=1)
    return np.asarray(elements[is_counted])


def _is_null(values: Array) -> Any:
    """Marks nulls: NaN, `NULL_INT`, None."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "iu":
        return values == names.NULL_INT
    if values.dtype.kind == "O":
        return values == None  # noqa: E711
    return np.zeros(values.shape, dtype=np.bool_)
