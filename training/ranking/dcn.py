"""DCN-v2: explicit products of the columns, by Merlin's cross layers, beside a deep network."""

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
from training.ranking.config import DcnConfig
from training.ranking.fit import fit_ranker


class Dcn(ColumnRanker):
    """A trained DCN-v2, a `RankingModel`."""

    name = "DCN-v2"


def fit_dcn(examples: RankingExamples, seed: int = 0, config: DcnConfig | None = None) -> Dcn:
    """Trains a DCN-v2.

    Source: Wang et al. 2021, figure 1b, the parallel structure; Merlin's CrossBlock.
    """
    return fit_ranker(Dcn, build_dcn, examples, seed, config or DcnConfig())


def build_dcn(
    fields: Mapping[str, Field], features: Sequence[str], heads: Sequence[str], config: DcnConfig
) -> ColumnNetwork:
    """Builds an untrained DCN-v2."""
    return column_network(fields, features, {"deep": config.width}, CrossAndDeep(heads, config), config)


class CrossAndDeep(tf.keras.layers.Layer):
    """Takes the vectors of all columns beside each other through both halves, joined before the heads."""

    def __init__(self, heads: Sequence[str], config: DcnConfig) -> None:
        super().__init__()
        self.cross = mm.CrossBlock(config.depth)
        self.deep = mm.MLPBlock(list(config.deep), dropout=config.dropout)
        self.heads = Heads(heads)

    def call(self, vectors: Vectors, training: bool = False) -> dict[str, tf.Tensor]:
        """Gives logits (B,1) by head."""
        joined = beside(vectors["deep"], vectors[NUMERIC])
        halves = [self.cross(joined), self.deep(joined, training=training)]
        return self.heads(tf.concat(halves, axis=1))  # type: ignore[no-any-return]
