"""Keeps trained models as SavedModels beside the bundles, for the benchmark against stock Merlin Systems."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol, runtime_checkable

import tensorflow as tf

from contract.bundle import ModelSpec
from training.examples.safe_names import safe_name
from training.export.towers import model_spec
from training.retrieval.convert import Model
from training.slates.slates import Learned

FOLDER = "saved_models"
"""Below `var`: one folder per bundle, in it one per model."""


def keep_models(folder: Path, learned: Learned) -> None:
    """Writes the user tower and the ranker of one training run, where they are TensorFlow's.

    The item vectors are in the bundle.
    """
    model, ranker, fields = learned.retriever.model, learned.ranker, learned.encoders.fields
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, _HasUserTower):
        spec = model_spec(model.user_features, fields, "user_tower", "user_vector")
        save_model(model.user_tower, spec, folder / "user_tower")
    if isinstance(ranker, _HasCandidateModel):
        spec = model_spec(ranker.features, fields, "ranker", "ranking_scores")
        save_model(ranker.candidate_model, spec, folder / "ranker")


@runtime_checkable
class _HasUserTower(Protocol):
    @property
    def user_tower(self) -> Model: ...


@runtime_checkable
class _HasCandidateModel(Protocol):
    @property
    def candidate_model(self) -> Model: ...


def save_model(model: Model, spec: ModelSpec, folder: Path) -> None:
    """Writes a SavedModel whose `serving_default` takes every column by safe name: (rows,), lists (rows, S).

    `model` is as for `to_onnx`; the output has the name and shape that the ONNX model's has.
    """
    several = {safe_name(name): (tf.int64, length) for name, length in spec.lists.items()}
    several |= {safe_name(name): (tf.float32, length) for name, length in spec.embeddings.items()}
    signature = {
        name: tf.TensorSpec((None, length), dtype, name) for name, (dtype, length) in several.items()
    }
    for dtype, columns in ((tf.int64, spec.categorical), (tf.float32, spec.numeric)):
        signature |= {name: tf.TensorSpec((None,), dtype, name) for name in map(safe_name, columns)}

    def named(columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        shaped = {name: value if name in several else value[:, None] for name, value in columns.items()}
        output = tf.cast(model(shaped), tf.float32)
        return {spec.output: tf.reshape(output, (-1,)) if output.shape[-1] in (1, None) else output}

    function = tf.function(named, input_signature=[signature], autograph=False)
    module = tf.Module()
    module.serve = function  # who loads this and saves it again finds the signature here
    # A callable's variables are not found by themselves; what is not tracked is not saved.
    module.graph_variables = list(function.get_concrete_function().variables)
    temporary = folder.with_name(f".{folder.name}.tmp")
    tf.saved_model.save(module, str(temporary), signatures={"serving_default": function})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
