"""The network of the ranker: Merlin's DLRM, its parts within reach, so that they can be served otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.models.tf.blocks.dlrm import DLRMBlock
from merlin.models.tf.blocks.mlp import _Dense
from merlin.schema import ColumnSchema, Schema, Tags

from contract.encoders import Field
from training.examples.safe_names import safe_fields
from training.ranking.config import DlrmConfig
from training.ranking.weights import DlrmWeights, Layer


@tf.keras.utils.register_keras_serializable(package="shortlist")
class MaskedMean(tf.keras.layers.Layer):
    """Averages the embeddings of a padded list (B,S,D) into (B,D); padding counts for nothing."""

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Takes embeddings, and the mask that a table with `mask_zero` leaves on them."""
        if mask is None:
            raise ValueError("MaskedMean needs the mask of an embedding table made with mask_zero=True")
        weights = tf.cast(mask, inputs.dtype)[..., tf.newaxis]
        return tf.reduce_sum(inputs * weights, axis=1) / tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)

    def compute_mask(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> None:
        """The mean has no mask."""
        del inputs, mask

    def compute_output_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
        """(B,S,D) becomes (B,D)."""
        return tf.TensorShape([input_shape[0], input_shape[-1]])


@dataclass(frozen=True, eq=False)
class Network:
    """One DLRM: `model` takes a dict of tensors by safe name, gives a dict of logits (B,1), one per head.

    The other fields are its parts; `bottom` is None where there are no numerics.
    """

    model: mm.Model
    embeddings: mm.ParallelBlock
    bottom: mm.SequentialBlock | None
    top: mm.SequentialBlock
    heads: Mapping[str, tf.keras.layers.Dense]

    def weights(self, head: str) -> DlrmWeights:
        """Copies the weights behind one head; the model must have run once."""
        return DlrmWeights(
            tables={
                name: layer.table.embeddings.numpy()
                for layer in self.embeddings.layers
                for name in layer.features
            },
            bottom=_layers(self.bottom) if self.bottom is not None else (),
            top=_layers(self.top),
            head=_layer(self.heads[head]),
        )


def build_network(
    fields: Mapping[str, Field], features: Sequence[str], heads: Sequence[str], config: DlrmConfig
) -> Network:
    """Builds Merlin's DLRM: an embedding per categorical, a masked mean per list, an MLP over the numerics,
    the dot products of all pairs, an MLP over these, and linear heads that each give a logit.
    """
    known = safe_fields({name: fields[name] for name in features})
    schema = _schema([*known.values()])
    lists = [name for name, field in known.items() if field.kind == "list"]
    embeddings = mm.Embeddings(
        schema.select_by_tag(Tags.CATEGORICAL),
        dim=config.width,
        sequence_combiner={name: MaskedMean() for name in lists},
        embeddings_initializer={n: tf.keras.initializers.RandomNormal(stddev=0.02) for n in known},
        mask_zero={name: True for name in lists},
        l2_batch_regularization_factor=config.l2 / config.batch_size,
    )
    has_numerics = any(field.kind == "numeric" for field in known.values())
    bottom = mm.MLPBlock([*config.bottom, config.width], no_activation_last_layer=True)
    top = mm.MLPBlock(list(config.top), dropout=config.dropout)
    body = DLRMBlock(schema, embeddings=embeddings, bottom_block=bottom, top_block=top)
    logits = {head: tf.keras.layers.Dense(1) for head in heads}
    outputs = {head: mm.BinaryOutput(target=head, to_call=logits[head], name=head) for head in heads}
    model = mm.Model(body, mm.ParallelBlock(outputs))
    return Network(model, embeddings, bottom if has_numerics else None, top, logits)


def _schema(fields: Sequence[Field]) -> Schema:
    """Describes encoded columns to Merlin; every column has an embedding table of its own."""
    columns = []
    for field in fields:
        if field.kind == "numeric":
            columns.append(ColumnSchema(field.name, tags=[Tags.CONTINUOUS], dtype=np.float32))
            continue
        domain = {"min": 0, "max": field.cardinality - 1, "name": field.name}
        columns.append(
            ColumnSchema(
                field.name,
                tags=[Tags.CATEGORICAL],
                dtype=np.int64,
                properties={"domain": domain},
                is_list=field.kind == "list",
                is_ragged=False if field.kind == "list" else None,
            )
        )
    return Schema(columns)


def _layers(block: mm.SequentialBlock) -> tuple[Layer, ...]:
    return tuple(_layer(layer.dense) for layer in block.layers if isinstance(layer, _Dense))


def _layer(dense: tf.keras.layers.Dense) -> Layer:
    return Layer(dense.kernel.numpy(), dense.bias.numpy())
