"""The design of the two towers, apart from the library that computes them: numbers, sizes, the start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from contract import names
from contract.arrays import Floats, Ints
from contract.encoders import Field
from training.examples.positives import RetrievalExamples
from training.retrieval.config import DrawingConfig
from training.retrieval.item_factors import item_factors
from training.retrieval.sampling import drawing_chances, newcomer_chances
from training.retrieval.task import FittingTask

POOLS = (
    (names.USER_RECENT_ITEM_IDS, 0.02, 1.0),
    (names.USER_RECENT_ITEM_IDS, 0.25, 0.5),
    (names.USER_RECENT_POSITIVE_ITEM_IDS, 0.02, 0.5),
)
"""Lists of items that the user tower pools: column, decay per position at the start, weight at the start."""

PRIOR_SPEED = 5.0
"""How much faster than the tables the prior learns: one number needs larger steps than a vector."""

PRIOR_START = 0.8
"""The prior's factor at the start, in logits per standard deviation of the log count."""

GATE_START = (2.0, -1.0)
"""At the start: popularity counts 1.8 times for an unknown user, half for one with full lists."""

POPULARITY_BOUND = 2.0
"""The most that popularity counts for a user: exactly so for one without history."""

NEWCOMER_TASTE = 0.2
"""The length of the direction of a user without history, 1 for all others: popularity decides, as no taste is
sure, and the scores stay in the range of everyone's."""


KNOTS = tuple(float(knot) for knot in np.arange(-2, 2.5, 0.5))
"""Where the line may bend by which a number of new items is read, in standard deviations: a film's year, or a
price, says one thing about the old and another about the new."""


def table_rows(field: Field) -> int:
    """Counts the rows of a field's table."""
    return {"numeric": 1, "embedding": field.length}.get(field.kind, field.cardinality)


def told_rows(field: Field) -> int:
    """Counts the rows of the table by which a field of new items is read."""
    return table_rows(field) + (len(KNOTS) if field.kind == "numeric" else 0)


@dataclass(frozen=True, eq=False)
class TowersStart:
    """Where the towers start."""

    history: Floats
    """Items as a history holds them, (item codes, D)."""
    candidates: Floats
    """Items as they are found, (item codes, D)."""
    popularity: Floats
    """How often an item was chosen of late, (item codes,): the log, of mean 0 and deviation 1."""
    base: Floats
    """Where users without a history are, (D,)."""

    @classmethod
    def of(cls, task: FittingTask) -> TowersStart:
        """Fits a linear model of the examples in closed form; what it does not know starts at random."""
        examples, config = task.examples, task.config
        codes, cardinality = task.catalogue[names.ITEM_ID], task.fields[names.ITEM_ID].cardinality
        tables = []
        matrix = examples.matrix()
        ridge = min(config.ridge, matrix.shape[0] / 10)
        factors = item_factors(matrix, config.width, ridge, config.start_items, task.seed)
        rng = np.random.default_rng(task.seed)
        for rows in factors:
            table = rng.normal(0, 0.1 / np.sqrt(config.width), (cardinality, config.width)).astype(np.float32)
            table[codes] = rows
            tables.append(table)
        popularity = late_popularity(examples, codes, cardinality, config)
        return cls(tables[0], tables[1], popularity, popular_direction(tables[1][codes], popularity[codes]))


def late_popularity(
    examples: RetrievalExamples, codes: Ints, cardinality: int, config: DrawingConfig
) -> Floats:
    """Gives how often an item was chosen of late, (item codes,): the log, of mean 0 and deviation 1 over the
    catalogue, whose codes are (I,)."""
    chosen_of_late = newcomer_chances(examples, drawing_chances(examples, config))
    shares = np.bincount(codes[examples.items], chosen_of_late, cardinality)
    counts = shares * np.count_nonzero(examples.is_timed & examples.is_target)
    popularity = np.log1p(counts).astype(np.float32)
    mean, spread = popularity[codes].mean(), popularity[codes].std()
    normal: Floats = (popularity - mean) / (spread if spread > 0 else 1.0)
    return normal


def score_range(prior: Floats, temperature: float) -> tuple[float, float]:
    """Takes every item code's popularity prior in logits, (item codes,), gives bounds of the inner product
    of any user with any item: a cosine, plus the weighted prior."""
    weighted = temperature * prior
    low, high = min(float(weighted.min()), 0.0), max(float(weighted.max()), 0.0)
    return -1.0 + POPULARITY_BOUND * low, 1.0 + POPULARITY_BOUND * high


def popular_direction(vectors: Floats, popularity: Floats) -> Floats:
    """Takes items' vectors (I,D) and popularity (I,), gives the unit vector (D,) whose products follow it.

    Ridge regression; a user without a history starts there.
    """
    gram = vectors.T @ vectors
    gram[np.diag_indices_from(gram)] += max(1e-6, 0.01 * float(np.trace(gram)))
    direction = np.linalg.solve(gram, vectors.T @ popularity)
    unit: Floats = (direction / max(float(np.linalg.norm(direction)), 1e-6)).astype(np.float32)
    return unit
