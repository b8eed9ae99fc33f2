"""Exports the trained encoders as ONNX with packed inputs, and refuses one that differs from its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from contract.arrays import Array
from contract.bundle import IndexSpec, ModelSpec
from contract.encoders import Field
from training.retrieval.pieces import in_pieces

TOLERANCE = 1e-5

Encode = Callable[[Mapping[str, Array]], Array]


class ExportError(RuntimeError):
    """Says which model does not survive the conversion, and by how much it differs."""


def model_spec(features: Sequence[str], fields: Mapping[str, Field], file: str, output: str) -> ModelSpec:
    """Takes a model's features, gives the inputs it is exported with; the order of `features` is kept."""
    return ModelSpec(
        file=file,
        categorical=tuple(name for name in features if fields[name].kind == "categorical"),
        numeric=tuple(name for name in features if fields[name].kind == "numeric"),
        lists={name: fields[name].length for name in features if fields[name].kind == "list"},
        embeddings={name: fields[name].length for name in features if fields[name].kind == "embedding"},
        output=output,
    )


def export_model(
    model: onnx.ModelProto, encode: Encode, spec: ModelSpec, sample: Mapping[str, Array], folder: Path
) -> None:
    """Writes `spec.file` into `folder`, and compares it with `encode` on `sample`, encoded real rows.

    Raises:
        ExportError: an output differs by more than `TOLERANCE`, or is not a number.
    """
    path = folder / spec.file
    path.write_bytes(model.SerializeToString())
    compare(spec.file, run_model(path, spec, sample), encode(sample))


def compare(file: str, actual: Array, expected: Array) -> None:
    """Compares what an exported model gives with what the model gave.

    Raises:
        ExportError: the shapes differ, or an output by more than `TOLERANCE`, or it is not a number.
    """
    if actual.shape != expected.shape:
        raise ExportError(f"{file}: ONNX gives shape {actual.shape}, the model {expected.shape}")
    worst = float(np.abs(actual - expected).max(initial=0.0))
    if not worst <= TOLERANCE:
        raise ExportError(f"{file}: ONNX differs from the model by {worst:.2g}, more than {TOLERANCE:g}")


def run_model(path: Path, spec: ModelSpec, arrays: Mapping[str, Array], rows: int = 8192) -> Array:
    """Runs an exported model on encoded columns, some `rows` at a time; gives (rows, D) or (rows,)."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return in_pieces(lambda some: session.run([spec.output], some)[0], spec.pack(arrays), rows)


def index_spec(items: int, flat_up_to: int) -> IndexSpec:
    """Takes the size of the catalogue, gives the index that serves it: exact up to `flat_up_to` items."""
    return IndexSpec(kind="FLAT" if items <= flat_up_to else "HNSW")
