"""What training draws: how likely each example is, and batches of them joined with their items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from contract import names
from contract.arrays import Array, Doubles, Floats
from contract.encoders import NULL_CODE, OOV_CODE, PAD_CODE, Field
from training.examples.facts import ExampleFacts
from training.examples.positives import RetrievalExamples
from training.retrieval.config import DrawingConfig, TwoTowerConfig


def drawing_chances(examples: ExampleFacts, config: DrawingConfig) -> Doubles:
    """Gives every example's chance to be drawn, (rows,)."""
    weights = drawing_weights(examples, config, examples.span_days)
    chances: Doubles = weights / weights.sum()
    return chances


def drawing_weights(examples: ExampleFacts, config: DrawingConfig, span_days: float) -> Doubles:
    """Gives how much oftener each example is drawn than others, (rows,).

    A timed one weighs `timed_weight` times a history's, half of that every `half_life` of the timed span
    earlier; one whose target is 1 weighs `target_weight` times another. All weigh what their labels do.
    """
    recency = config.timed_weight * 0.5 ** (examples.age_days / span_days / config.half_life)
    weights: Doubles = np.where(examples.is_timed, recency, 1.0)
    weights *= np.where(examples.is_target, config.target_weight, 1.0) * examples.weights
    return weights


def newcomer_chances(examples: ExampleFacts, chances: Doubles) -> Doubles:
    """Gives every example's chance to stand for an unknown user's: timed, with the target 1.

    An unknown user comes now; what histories hold was shown in another time, and often not chosen.
    """
    masked = np.where(examples.is_timed & examples.is_target, chances, 0.0)
    total = masked.sum()
    return masked / total if total > 0 else chances


def sampling_probabilities(
    fields: Mapping[str, Field],
    examples: ExampleFacts,
    catalogue: Mapping[str, Array],
    chances: Doubles,
) -> Floats:
    """Gives every item code the chance to be drawn as a negative, (cardinality,)."""
    codes = catalogue[names.ITEM_ID][examples.items]
    return np.bincount(codes, chances, fields[names.ITEM_ID].cardinality).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BatchMix:
    """What every batch is made of: rows of known users, then rows whose user is withheld."""

    chances: tuple[Doubles, Doubles]
    """Of every example (rows,), to be drawn as one of the first, and as one of the others."""
    sizes: tuple[int, int]

    @classmethod
    def of(cls, examples: ExampleFacts, config: TwoTowerConfig, size: int) -> BatchMix:
        """Divides batches of `size` rows as `config` asks."""
        known, withheld = drawing_chances(examples, config), round(config.unknown_user_share * size)
        return cls((known, newcomer_chances(examples, known)), (size - withheld, withheld))

    @property
    def mixed(self) -> Doubles:
        """Every example's chance to be drawn as any of a batch's rows, (rows,)."""
        known, newcomers = self.chances
        return known + (newcomers - known) * self.sizes[1] / sum(self.sizes)


def unknown_columns(fields: Mapping[str, Field], columns: Mapping[str, Array]) -> dict[str, Array]:
    """Takes user columns, gives those of as many users of whom nothing is known."""
    nothing = {"categorical": NULL_CODE, "list": PAD_CODE, "numeric": 0, "embedding": 0}
    blank = {name: np.full_like(values, nothing[fields[name].kind]) for name, values in columns.items()}
    blank[names.USER_ID][:] = OOV_CODE
    return blank


def batches(
    fields: Mapping[str, Field],
    examples: RetrievalExamples,
    catalogue: Mapping[str, Array],
    chances: tuple[Doubles, Doubles],
    sizes: tuple[int, int],
    seed: int,
    fresh_share: float = 0.0,
) -> Iterator[dict[str, Array]]:
    """Draws batches without end: columns (B,1), lists (B,S); `fresh_share` of them as of just before.

    The first `sizes[0]` rows are known users', drawn by `chances[0]`; the others, by `chances[1]`, have their
    user withheld.
    """
    rng, moments = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    ends = [np.cumsum(part) for part in chances]
    while True:
        drawn = [
            np.searchsorted(end, rng.random(size) * end[-1], side="right")
            for end, size in zip(ends, sizes, strict=True)
        ]
        known, withheld = (
            examples.batch(rows, moments.random(len(rows)) < fresh_share)
            for rows in (np.minimum(part, len(examples) - 1) for part in drawn)
        )
        unknown = unknown_columns(fields, withheld)
        items = examples.items[np.minimum(np.concatenate(drawn), len(examples) - 1)]
        columns = {name: np.concatenate([known[name], unknown[name]]) for name in known}
        columns |= {name: values[items] for name, values in catalogue.items()}
        yield {name: v[:, None] if v.ndim == 1 else v for name, v in columns.items()}
