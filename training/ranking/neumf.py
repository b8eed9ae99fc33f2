"""NeuMF: who and what alone, by a product of two vectors and by a deep network on two others.

It has no inner product to search an index by, so it ranks here and does not retrieve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import merlin.models.tf as mm
import tensorflow as tf

from contract import names
from contract.encoders import Field
from training.examples.ranking import RankingExamples
from training.examples.safe_names import safe_name
from training.ranking.by_column import ColumnNetwork, ColumnRanker, Heads, Vectors, beside, column_network
from training.ranking.config import DeepConfig
from training.ranking.fit import fit_ranker

IDS = (names.USER_ID, names.ITEM_ID)


class NeuMf(ColumnRanker):
    """A trained NeuMF, a `RankingModel` that reads the two ids."""

    name = "NeuMF"


def fit_neumf(examples: RankingExamples, seed: int = 0, config: DeepConfig | None = None) -> NeuMf:
    """Trains a NeuMF.

    Source: He et al. 2017, section 3.4.
    """
    ids = replace(examples, fields={name: examples.fields[name] for name in IDS})
    return fit_ranker(NeuMf, build_neumf, ids, seed, config or DeepConfig())


def build_neumf(
    fields: Mapping[str, Field], features: Sequence[str], heads: Sequence[str], config: DeepConfig
) -> ColumnNetwork:
    """Builds an untrained NeuMF; `features` are the ids."""
    widths = {"product": config.width, "deep": config.width}
    return column_network(fields, features, widths, ProductAndDeep(heads, config), config)


class ProductAndDeep(tf.keras.layers.Layer):
    """Joins the elementwise product of the ids' vectors and the deep network over their other vectors."""

    def __init__(self, heads: Sequence[str], config: DeepConfig) -> None:
        super().__init__()
        self.deep = mm.MLPBlock(list(config.deep), dropout=config.dropout)
        self.heads = Heads(heads)

    def call(self, vectors: Vectors, training: bool = False) -> dict[str, tf.Tensor]:
        """Gives logits (B,1) by head."""
        user, item = (vectors["product"][safe_name(name)] for name in IDS)
        deep = self.deep(beside(vectors["deep"]), training=training)
        return self.heads(tf.concat([user * item, deep], axis=1))  # type: ignore[no-any-return]
