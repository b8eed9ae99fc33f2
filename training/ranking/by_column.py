"""Rankers made of two steps: vectors of each column by itself, then a body that combines them.

So a user's vectors are looked up once, whatever the number of candidates, and one export serves all bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import tensorflow as tf

from contract.bundle import RankerSpec
from contract.encoders import Field
from training.examples.safe_names import safe_fields
from training.ranking.columns import Batch, embeddings
from training.ranking.config import RankerConfig
from training.ranking.neural import Network, NeuralRanker, mean_logits
from training.ranking.tiled_graph import tiled_graph

Vectors = dict[str, dict[str, tf.Tensor]]
"""What is made of the columns, by part and safe name, each (B, width); `NUMERIC` holds (B,1)."""
NUMERIC = "numeric"
BOUND = 5.0
"""Standard deviations at which numerics are cut: their products grow as powers."""


class ColumnModel(tf.keras.Model):
    """Looks up vectors, then asks `body`, a layer that takes them and gives logits (B,1) by head."""

    def __init__(
        self,
        fields: Iterable[Field],
        widths: Mapping[str, int],
        body: tf.keras.layers.Layer,
        config: RankerConfig,
    ) -> None:
        """Takes fields with safe names, and the width of each part's vectors: a part has its own tables."""
        super().__init__()
        fields = tuple(fields)
        self.numerics = tuple(field.name for field in fields if field.kind == "numeric")
        penalty = config.l2 / config.batch_size
        self.tables = {part: embeddings(fields, width, penalty) for part, width in widths.items()}
        self.body = body

    def vectors(self, inputs: Batch) -> Vectors:
        """Gives the vectors of the columns that are there; each by itself, so of any number of rows."""
        found = {part: dict(table(inputs)) for part, table in self.tables.items()}
        numeric = {name: inputs[name] for name in self.numerics if name in inputs}
        return found | {NUMERIC: {n: tf.clip_by_value(v, -BOUND, BOUND) for n, v in numeric.items()}}

    def call(self, inputs: Batch, training: bool = False) -> dict[str, tf.Tensor]:
        """Takes columns, gives logits (B,1) by head."""
        return self.body(self.vectors(inputs), training=training)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class ColumnNetwork(Network):
    """One network of the two steps."""

    model: ColumnModel


@dataclass(frozen=True, eq=False)
class ColumnRanker(NeuralRanker):
    """A trained ranker of such networks, a `RankingModel`; a subclass bears its name."""

    members: tuple[ColumnNetwork, ...]

    def to_onnx(self, spec: RankerSpec) -> onnx.ModelProto:
        """Converts what `candidate_model` computes; users' vectors are repeated for each candidate."""

        def vectors(inputs: Batch) -> list[Vectors]:
            return [member.model.vectors(inputs) for member in self.members]

        def scores(vectors: Sequence[Vectors]) -> tf.Tensor:
            pairs = zip(self.members, vectors, strict=True)
            return self.served(mean_logits([member.model.body(given) for member, given in pairs]))

        return tiled_graph(spec, vectors, scores)


def column_network(
    fields: Mapping[str, Field],
    features: Sequence[str],
    widths: Mapping[str, int],
    body: tf.keras.layers.Layer,
    config: RankerConfig,
) -> ColumnNetwork:
    """Builds a network that reads `features`."""
    known = safe_fields({name: fields[name] for name in features})
    return ColumnNetwork(ColumnModel(known.values(), widths, body, config))


def beside(*parts: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Puts vectors beside each other, by name: (B, sum of widths)."""
    return tf.concat([part[name] for part in parts for name in sorted(part)], axis=1)


class Heads(tf.keras.layers.Layer):
    """A linear logit per head of the same vector."""

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__()
        self.of = {head: tf.keras.layers.Dense(1) for head in heads}

    def call(self, vector: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes (B,D), gives (B,1) by head."""
        return {head: logit(vector) for head, logit in self.of.items()}
