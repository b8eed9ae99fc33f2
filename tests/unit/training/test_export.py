"""Exported models equal TensorFlow, or are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf

from contract.arrays import Array
from contract.encoders import Field
from training.export.towers import ExportError, export_model, index_spec, model_spec, run_model
from training.retrieval.convert import to_onnx

FIELDS = {
    "user_id": Field("user_id", "categorical", "user_id", 10),
    "user_age": Field("user_age", "numeric"),
    "recent": Field("recent", "list", "item_id", 10, length=5),
}
SAMPLE: dict[str, Array] = {
    "user_id": np.arange(9),
    "user_age": np.linspace(-2, 2, 9, dtype=np.float32),
    "recent": np.arange(45).reshape(9, 5) % 10,
}


class Toy(tf.keras.Model):  # type: ignore[misc]
    """Embeds, pools and projects; `noise` makes it give other values each time."""

    def __init__(self, width: int, noise: float = 0.0) -> None:
        super().__init__()
        self.table, self.project, self.noise = (
            tf.keras.layers.Embedding(10, 4),
            tf.keras.layers.Dense(width),
            noise,
        )

    def call(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        pooled = tf.reduce_mean(self.table(inputs["recent"]), axis=1)
        joined = tf.concat([self.table(inputs["user_id"])[:, 0], inputs["user_age"], pooled], axis=1)
        output = self.project(joined)
        return output + self.noise * tf.random.uniform(tf.shape(output)) if self.noise else output


def encoder(toy: Toy, shape: tuple[int, ...]) -> Callable[[Mapping[str, Array]], Array]:
    def encode(arrays: Mapping[str, Array]) -> Array:
        output: Array = toy({name: values.reshape(9, -1) for name, values in arrays.items()}).numpy()
        return output.reshape(shape)

    return encode


@pytest.mark.parametrize(("width", "shape"), [(3, (9, 3)), (1, (9,))])
def test_an_export_equals_tensorflow_on_every_row(tmp_path: Path, width: int, shape: tuple[int, ...]) -> None:
    toy = Toy(width)
    spec = model_spec(["recent", "user_age", "user_id"], FIELDS, "toy.onnx", "toy_output")
    encode = encoder(toy, shape)
    export_model(to_onnx(toy, spec), encode, spec, SAMPLE, tmp_path)
    expected = encode(SAMPLE)
    np.testing.assert_allclose(
        run_model(tmp_path / "toy.onnx", spec, SAMPLE, rows=4), expected, rtol=0, atol=1e-6
    )


def test_inputs_are_packed_and_named(tmp_path: Path) -> None:
    spec = model_spec(["recent", "user_age", "user_id"], FIELDS, "toy.onnx", "toy_output")
    toy = Toy(3)
    export_model(to_onnx(toy, spec), encoder(toy, (9, 3)), spec, SAMPLE, tmp_path)
    graph = onnx.load(tmp_path / "toy.onnx").graph
    assert {i.name: i.type.tensor_type.shape.dim[1].dim_value for i in graph.input} == {
        "categorical": 1,
        "numeric": 1,
        "recent": 5,
    }
    assert [output.name for output in graph.output] == ["toy_output"]


def test_a_model_that_the_conversion_changes_is_refused(tmp_path: Path) -> None:
    spec = model_spec(list(FIELDS), FIELDS, "toy.onnx", "toy_output")
    toy = Toy(3, noise=1.0)
    with pytest.raises(ExportError, match=r"toy\.onnx: ONNX differs from the model by"):
        export_model(to_onnx(toy, spec), encoder(toy, (9, 3)), spec, SAMPLE, tmp_path)


def test_a_large_catalogue_gets_an_approximate_index() -> None:
    assert index_spec(100, flat_up_to=100).kind == "FLAT"
    assert index_spec(101, flat_up_to=100).kind == "HNSW"
