"""DeepFM: a factorization machine on all pairs of codes, and a deep network on the same vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import merlin.models.tf as mm
import tensorflow as tf
from merlin.models.tf.blocks.interaction import FMPairwiseInteraction

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
from training.ranking.wide_deep import Wide


class DeepFm(ColumnRanker):
    """A trained DeepFM, a `RankingModel`."""

    name = "DeepFM"


def fit_deep_fm(examples: RankingExamples, seed: int = 0, config: DeepConfig | None = None) -> DeepFm:
    """Trains a DeepFM.

    Source: Guo et al. 2017, equations 1 to 4; as in Merlin's FMBlock, numerics are in the first order alone.
    """
    return fit_ranker(DeepFm, build_deep_fm, examples, seed, config or DeepConfig())


def build_deep_fm(
    fields: Mapping[str, Field], features: Sequence[str], heads: Sequence[str], config: DeepConfig
) -> ColumnNetwork:
    """Builds an untrained DeepFM."""
    widths = {"deep": config.width, "wide": len(heads)}
    return column_network(fields, features, widths, FactorsAndDeep(heads, config), config)


class FactorsAndDeep(tf.keras.layers.Layer):
    """Adds three logits: of the first order, of all pairs, the same for every head, and of the deep part."""

    def __init__(self, heads: Sequence[str], config: DeepConfig) -> None:
        super().__init__()
        self.first_order = Wide(heads)
        self.pairs = FMPairwiseInteraction()
        self.deep = mm.MLPBlock(list(config.deep), dropout=config.dropout)
        self.heads = Heads(heads)
        self.at = {head: at for at, head in enumerate(heads)}

    def call(self, vectors: Vectors, training: bool = False) -> dict[str, tf.Tensor]:
        """Gives logits (B,1) by head."""
        deep = self.heads(self.deep(beside(vectors["deep"], vectors[NUMERIC]), training=training))
        stacked = tf.stack([vectors["deep"][name] for name in sorted(vectors["deep"])], axis=1)
        pairs = tf.reduce_sum(self.pairs(stacked), axis=1, keepdims=True)
        first = self.first_order(vectors)
        return {head: deep[head] + pairs + first[:, at : at + 1] for head, at in self.at.items()}
