"""Wide & Deep: a linear model of every code and numeric, which remembers, beside a deep network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import merlin.models.tf as mm
import tensorflow as tf

from contract.encoders import Field
from training.examples.ranking import RankingExamples
from training.ranking.by_column import (
    NUMERIC,
    ColumnNetwork,
    ColumnRanker,
    Heads,
    Vectors,
    beside,
    column_network,
)
from training.ranking.config import DeepConfig
from training.ranking.fit import fit_ranker


class WideDeep(ColumnRanker):
    """A trained Wide & Deep network, a `RankingModel`."""

    name = "Wide & Deep"


def fit_wide_deep(examples: RankingExamples, seed: int = 0, config: DeepConfig | None = None) -> WideDeep:
    """Trains a Wide & Deep network.

    The crosses that the paper makes by hand are columns here: how often a user chose what an item has.

    Source: Cheng et al. 2016, equation 3.
    """
    return fit_ranker(WideDeep, build_wide_deep, examples, seed, config or DeepConfig())


def build_wide_deep(
    fields: Mapping[str, Field], features: Sequence[str], heads: Sequence[str], config: DeepConfig
) -> ColumnNetwork:
    """Builds an untrained Wide & Deep network."""
    widths = {"deep": config.width, "wide": len(heads)}
    return column_network(fields, features, widths, WideAndDeep(heads, config), config)


class Wide(tf.keras.layers.Layer):
    """A linear model per head: a weight per code, which is a column of its vector, and one per numeric.

    The product of a one-hot code and weights, as Merlin's wide part computes it, is a row of the weights.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__()
        self.numeric = tf.keras.layers.Dense(len(heads), use_bias=False)

    def call(self, vectors: Vectors) -> tf.Tensor:
        """Takes vectors whose part `wide` has a coordinate per head, gives their sums (B,heads)."""
        total = tf.add_n([vectors["wide"][name] for name in sorted(vectors["wide"])])
        return total + self.numeric(beside(vectors[NUMERIC])) if vectors[NUMERIC] else total


class WideAndDeep(tf.keras.layers.Layer):
    """Adds the logits of both halves."""

    def __init__(self, heads: Sequence[str], config: DeepConfig) -> None:
        super().__init__()
        self.wide = Wide(heads)
        self.deep = mm.MLPBlock(list(config.deep), dropout=config.dropout)
        self.heads = Heads(heads)
        self.at = {head: at for at, head in enumerate(heads)}

    def call(self, vectors: Vectors, training: bool = False) -> dict[str, tf.Tensor]:
        """Gives logits (B,1) by head."""
        wide = self.wide(vectors)
        deep = self.heads(self.deep(beside(vectors["deep"], vectors[NUMERIC]), training=training))
        return {head: deep[head] + wide[:, at : at + 1] for head, at in self.at.items()}
