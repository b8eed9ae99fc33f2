"""Converts the trained models to ONNX with packed inputs, and refuses one that differs from TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tensorflow as tf
import tf2onnx

from contract.arrays import Array
from contract.bundle import IndexSpec, ModelSpec
from contract.encoders import Field

OPSET = 17
TOLERANCE = 1e-5

Model = Callable[[dict[str, tf.Tensor]], tf.Tensor]


class ExportError(RuntimeError):
    """Says which model does not survive the conversion, and by how much it differs."""


def model_spec(features: Sequence[str], fields: Mapping[str, Field], file: str, output: str) -> ModelSpec:
    """Takes a model's features, gives the inputs it is exported with; the order of `features` is kept."""
    return ModelSpec(
        file=file,
        categorical=tuple(name for name in features if fields[name].kind == "categorical"),
        numeric=tuple(name for name in features if fields[name].kind == "numeric"),
        lists={name: fields[name].length for name in features if fields[name].kind == "list"},
        output=output,
    )


def export_model(model: Model, spec: ModelSpec, sample: Mapping[str, Array], folder: Path) -> None:
    """Writes `spec.file` into `folder`, and compares it with TensorFlow on `sample`, encoded real rows.

    `model` takes a dict of named tensors, (rows, 1) or for lists (rows, S), and gives (rows, D);
    (rows, 1) becomes (rows,).

    Raises:
        ExportError: an output differs by more than `TOLERANCE`, or is not a number.
    """

    signature = [tf.TensorSpec((None, width), dtype, name=name) for name, width, dtype in _inputs(spec)]

    def packed(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {tensor.name: value for tensor, value in zip(signature, tensors, strict=True)}
        named = {name: inputs[name] for name in spec.lists}
        for kind, columns in (("categorical", spec.categorical), ("numeric", spec.numeric)):
            named |= {name: inputs[kind][:, at : at + 1] for at, name in enumerate(columns)}
        output = tf.cast(model(named), tf.float32)
        return {spec.output: tf.reshape(output, (-1,)) if output.shape[-1] in (1, None) else output}

    function = tf.function(packed, input_signature=signature, autograph=False)
    inputs = spec.pack(sample)
    expected = function(*(tf.constant(inputs[tensor.name]) for tensor in signature))[spec.output].numpy()
    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    path = folder / spec.file
    path.write_bytes(converted.SerializeToString())
    compare(spec.file, run_model(path, spec, sample), expected)


def compare(file: str, actual: Array, expected: Array) -> None:
    """Compares what an exported model gives with what TensorFlow gave.

    Raises:
        ExportError: the shapes differ, or an output by more than `TOLERANCE`, or it is not a number.
    """
    if actual.shape != expected.shape:
        raise ExportError(f"{file}: ONNX gives shape {actual.shape}, TensorFlow {expected.shape}")
    worst = float(np.abs(actual - expected).max(initial=0.0))
    if not worst <= TOLERANCE:
        raise ExportError(f"{file}: ONNX differs from TensorFlow by {worst:.2g}, more than {TOLERANCE:g}")


def run_model(path: Path, spec: ModelSpec, arrays: Mapping[str, Array], rows: int = 8192) -> Array:
    """Runs an exported model on encoded columns, some `rows` at a time; gives (rows, D) or (rows,)."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = spec.pack(arrays)
    total = len(next(iter(inputs.values())))
    parts = [
        session.run([spec.output], {name: value[at : at + rows] for name, value in inputs.items()})[0]
        for at in range(0, max(total, 1), rows)
    ]
    return np.concatenate(parts)


def index_spec(items: int, flat_up_to: int) -> IndexSpec:
    """Takes the size of the catalogue, gives the index that serves it: exact up to `flat_up_to` items."""
    return IndexSpec(kind="FLAT" if items <= flat_up_to else "HNSW")


def _inputs(spec: ModelSpec) -> list[tuple[str, int, tf.DType]]:
    inputs = [(name, length, tf.int64) for name, length in spec.lists.items()]
    if spec.categorical:
        inputs.append(("categorical", len(spec.categorical), tf.int64))
    if spec.numeric:
        inputs.append(("numeric", len(spec.numeric), tf.float32))
    return inputs
