"""Converts TensorFlow models to ONNX with packed inputs."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import tensorflow as tf
import tf2onnx

from contract.bundle import ModelSpec

OPSET = 17

Model = Callable[[dict[str, tf.Tensor]], tf.Tensor]
"""Takes named tensors, (rows, 1) or for lists (rows, S), gives (rows, D)."""


def to_onnx(model: Model, spec: ModelSpec) -> onnx.ModelProto:
    """Builds the graph of a model of inputs as `spec` packs them; an output (rows, 1) becomes (rows,)."""
    signature = [tf.TensorSpec((None, width), dtype, name=name) for name, width, dtype in _inputs(spec)]

    def packed(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {tensor.name: value for tensor, value in zip(signature, tensors, strict=True)}
        named = {name: inputs[name] for name in spec.lists}
        for kind, columns in (("categorical", spec.categorical), ("numeric", spec.numeric)):
            named |= {name: inputs[kind][:, at : at + 1] for at, name in enumerate(columns)}
        output = tf.cast(model(named), tf.float32)
        return {spec.output: tf.reshape(output, (-1,)) if output.shape[-1] in (1, None) else output}

    function = tf.function(packed, input_signature=signature, autograph=False)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    return converted


def _inputs(spec: ModelSpec) -> list[tuple[str, int, tf.DType]]:
    inputs = [(name, length, tf.int64) for name, length in spec.lists.items()]
    if spec.categorical:
        inputs.append(("categorical", len(spec.categorical), tf.int64))
    if spec.numeric:
        inputs.append(("numeric", len(spec.numeric), tf.float32))
    return inputs
