"""Where an item stands that nobody has met: what its features say, as learned from known items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import Ridge

from contract.arrays import Array, Bools, Floats
from contract.encoders import PAD_CODE, Field
from training.retrieval.tower_design import KNOTS, told_rows

RIDGE = 10.0
"""L2 penalty, in items: a value of a feature that fewer have says little of its own."""

LEAST_LIFT = -4.0
"""In standard deviations of the log of known items' counts: there no new item comes before a known one."""

PROBES = 0.1
"""Share of the known items of which the regression is told nothing: ranked as new, they tell how new ones
fare."""

LOOKS = 5
"""How often validation is asked for the lift: the interval is halved each time."""


def is_probe(items: int) -> Bools:
    """Draws the items of a catalogue that the regression is told nothing of, (I,); always the same."""
    drawn: Bools = np.random.default_rng(0).random(items) < PROBES
    return drawn


def side_rows(fields: Sequence[Field], columns: Mapping[str, Array]) -> csr_matrix:
    """Takes side columns, (I,) or lists (I,L), gives one row per item, (I,F), as the towers read them.

    F counts the rows of the fields' tables one after the other, and one more that is zero throughout: there
    may be no field. A number has one of its own, and one for how far it is beyond each of `KNOTS`.
    """
    items = len(next(iter(columns.values())))
    parts = [csr_matrix((items, 1), dtype=np.float32)]
    for field in fields:
        values = columns[field.name]
        if field.kind == "numeric":
            number = np.clip(values.reshape(-1, 1), -5, 5)
            beyond = np.maximum(number - np.array(KNOTS, dtype=np.float32), 0)
            parts.append(csr_matrix(np.hstack([number, beyond])))
        elif field.kind == "embedding":
            parts.append(csr_matrix(values))
        else:
            codes = values.reshape(items, -1)
            mask = codes != PAD_CODE if field.kind == "list" else np.ones_like(codes, dtype=np.bool_)
            weights = mask / (mask.sum(axis=1, keepdims=True) + (field.kind == "list"))
            rows, places = np.nonzero(mask)
            shape = (items, field.cardinality)
            parts.append(csr_matrix((weights[rows, places], (rows, codes[rows, places])), shape=shape))
    return hstack(parts).tocsr()


def fit_side_tables(
    fields: Sequence[Field], columns: Mapping[str, Array], vectors: Floats, prior: Floats, weights: Floats
) -> tuple[Floats, dict[str, Floats], Floats]:
    """Fits what known items' features say of their vectors (I,D) and prior (I,), by ridge regression.

    `weights` (I,) says how sure an item's vector is; of the prior all count alike, as a new item may be any
    of them. Gives where all start, (D + 1,), and one table (rows, D + 1) per field: what they sum to is the
    vector, then the prior; and how much more the prior of each known item is than its features say, (I,).

    Source: Gantner et al. 2010, section 3, with a linear map.
    """
    rows = side_rows(fields, columns)
    towards = Ridge(RIDGE * float(weights.mean()), solver="sparse_cg").fit(rows, vectors, weights)
    popular = Ridge(RIDGE, solver="sparse_cg").fit(rows, prior)
    coefficients = np.vstack([towards.coef_, popular.coef_]).T.astype(np.float32)[1:]
    start = np.append(towards.intercept_, popular.intercept_).astype(np.float32)
    parts = np.split(coefficients, np.cumsum([told_rows(field) for field in fields])[:-1]) if fields else []
    tables = {field.name: part for field, part in zip(fields, parts, strict=True)}
    return start, tables, prior - popular.predict(rows).astype(np.float32)


def fair_lift(left: Floats, spread: float) -> float:
    """Gives the lift at which new items have the mean count of known ones with their features.

    What a regression tells of logarithms leads to the median; `left` (I,) is what it left unsaid, in
    deviations of `spread` in the log of counts.

    Source: Duan 1983, the smearing estimate.
    """
    return float(np.log(np.mean(np.exp(left.astype(np.float64) * spread))) / max(spread, 1e-6))


def highest_lift(value: Callable[[float], float], most: float, cost: float) -> float:
    """Finds how far new items may be lifted, at most `most`: takes what validation gives at a lift, which
    falls as the lift rises, and the share of it that may be lost."""
    least = (1 - cost) * value(LEAST_LIFT)
    if value(most) >= least:
        return most
    low, high = LEAST_LIFT, most
    for _ in range(LOOKS):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) >= least else (low, middle)
    return low
