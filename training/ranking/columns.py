"""Encoded columns as Merlin's blocks take them: a schema, and vectors of the codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import merlin.models.tf as mm
import numpy as np
import tensorflow as tf
from merlin.schema import ColumnSchema, Schema, Tags

from contract.arrays import Array
from contract.encoders import Field
from training.examples.safe_names import safe_name

Batch = dict[str, tf.Tensor]
"""Columns by safe name: codes and numerics (B,1), lists (B,S)."""


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


def embeddings(fields: Iterable[Field], width: int, l2: float) -> mm.ParallelBlock:
    """Makes a table per categorical and per list, whose vectors are averaged; numerics are left out.

    `l2` is the penalty of a vector each time it is used. Names are safe names.
    """
    coded = [field for field in fields if field.kind != "numeric"]
    lists = [field.name for field in coded if field.kind == "list"]
    return mm.Embeddings(
        merlin_schema(coded).select_by_tag(Tags.CATEGORICAL),
        dim=width,
        sequence_combiner={name: MaskedMean() for name in lists},
        embeddings_initializer={f.name: tf.keras.initializers.RandomNormal(stddev=0.02) for f in coded},
        mask_zero={name: True for name in lists},
        l2_batch_regularization_factor=l2,
    )


def merlin_schema(fields: Iterable[Field]) -> Schema:
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


def to_tensors(features: Sequence[str], arrays: Mapping[str, Array], rows: Array | slice) -> Batch:
    """Takes rows of encoded columns, gives them by safe name."""
    chosen = {name: arrays[name][rows] for name in features}
    return {safe_name(name): tf.constant(a[:, None] if a.ndim == 1 else a) for name, a in chosen.items()}
