"""Converts TensorFlow models to ONNX with packed inputs."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import tensorflow as tf
import tf2onnx

from contract.bundle import ModelSpec
from training.examples.safe_names import renamed, safe_name

OPSET = 17

Model = Callable[[dict[str, tf.Tensor]], tf.Tensor]
"""Takes tensors by safe name, (rows, 1) or for lists (rows, S), gives (rows, D)."""


def to_onnx(model: Model, spec: ModelSpec) -> onnx.ModelProto:
    """Builds the graph of a model of inputs as `spec` packs them; an output (rows, 1) becomes (rows,)."""
    signature = [tf.TensorSpec((None, width), dtype, name=name) for name, width, dtype in _inputs(spec)]

    def packed(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {tensor.name: value for tensor, value in zip(signature, tensors, strict=True)}
        named = {safe_name(name): inputs[safe_name(name)] for name in (*spec.lists, *spec.embeddings)}
        for kind, columns in (("categorical", spec.categorical), ("numeric", spec.numeric)):
            named |= {safe_name(name): inputs[kind][:, at : at + 1] for at, name in enumerate(columns)}
        output = tf.cast(model(named), tf.float32)
        return {spec.output: tf.reshape(output, (-1,)) if output.shape[-1] in (1, None) else output}

    function = tf.function(packed, input_signature=signature, autograph=False)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    return renamed(converted, {safe_name(name): name for name in (*spec.lists, *spec.embeddings)})


def _inputs(spec: ModelSpec) -> list[tuple[str, int, tf.DType]]:
    inputs = [(safe_name(name), length, tf.int64) for name, length in spec.lists.items()]
    inputs += [(safe_name(name), length, tf.float32) for name, length in spec.embeddings.items()]
    if spec.categorical:
        inputs.append(("categorical", len(spec.categorical), tf.int64))
    if spec.numeric:
        inputs.append(("numeric", len(spec.numeric), tf.float32))
    return inputs
