"""Any ranker of Keras as it is served: users (B, ...) and candidates (B, K, ...) in, scores (B, K) out.

TensorFlow's graph is converted as it is, so a ranker needs nothing of its own for it. What each candidate
shares with its user is computed once up to the vectors of the columns, and repeated from there;
`training/ranking/graph.py` goes further for the DLRM, by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import tensorflow as tf
import tf2onnx

from contract.bundle import Inputs, RankerSpec
from training.examples.safe_names import renamed, safe_name
from training.ranking.columns import Batch
from training.ranking.onnx_graph import OPSET

Vectors = dict[str, dict[str, tf.Tensor]]
USERS, CANDIDATES = "users", "candidates"


def tiled_graph(
    spec: RankerSpec,
    vectors: Callable[[Batch], list[Vectors]],
    scores: Callable[[Sequence[Vectors]], tf.Tensor],
) -> onnx.ModelProto:
    """Converts a ranker; `vectors` gives of columns (rows,1), lists (rows,S), their vectors (rows,D), member
    by member, each column by itself; `scores` takes them, all of as many rows, and gives (rows,1).

    Raises:
        ValueError: the ranker reads no column of candidates.
    """
    if not spec.candidate.columns:
        raise ValueError("the ranker needs a column of the candidates; it would score all of a user's alike")
    signature = [
        *_signature(spec.user, "user_", (None,)),
        *_signature(spec.candidate, "candidate_", (None, None)),
    ]
    of_users = {safe_name(name) for name in spec.user.columns}

    def graph(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {given.name: value for given, value in zip(signature, tensors, strict=True)}
        candidates = _columns(spec.candidate, "candidate_", inputs)
        users, k = tf.unstack(tf.shape(next(iter(candidates.values())))[:2])
        columns = _columns(spec.user, "user_", inputs)
        columns |= {n: tf.reshape(v, (-1, v.shape[-1])) for n, v in candidates.items()}

        def tiled(name: str, vector: tf.Tensor) -> tf.Tensor:
            if name not in of_users:
                return vector
            return tf.reshape(tf.tile(vector[:, None], (1, k, 1)), (-1, vector.shape[-1]))

        found = [
            {part: {name: tiled(name, v) for name, v in by_name.items()} for part, by_name in member.items()}
            for member in vectors(columns)
        ]
        return {spec.output: tf.reshape(tf.cast(scores(found), tf.float32), (users, k))}

    function = tf.function(graph, input_signature=signature, autograph=False)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    return _with_own_names(converted, spec)


def _signature(inputs: Inputs, prefix: str, axes: tuple[None, ...]) -> list[tf.TensorSpec]:
    lists = [tf.TensorSpec((*axes, n), tf.int64, safe_name(name)) for name, n in inputs.lists.items()]
    packed = (("categorical", inputs.categorical, tf.int64), ("numeric", inputs.numeric, tf.float32))
    return lists + [
        tf.TensorSpec((*axes, len(columns)), dtype, f"{prefix}{kind}")
        for kind, columns, dtype in packed
        if columns
    ]


def _columns(inputs: Inputs, prefix: str, given: Mapping[str, tf.Tensor]) -> Batch:
    """Takes a side's packed inputs, gives its columns by safe name, each (..., 1), lists (..., S)."""
    columns = {safe_name(name): given[safe_name(name)] for name in inputs.lists}
    for kind, names in (("categorical", inputs.categorical), ("numeric", inputs.numeric)):
        columns |= {
            safe_name(name): given[f"{prefix}{kind}"][..., at : at + 1] for at, name in enumerate(names)
        }
    return columns


def _with_own_names(model: onnx.ModelProto, spec: RankerSpec) -> onnx.ModelProto:
    """Calls inputs by their columns' own names, and the axes of any length by what they count."""
    own = {safe_name(name): name for name in (*spec.user.lists, *spec.candidate.lists)}
    of_candidates = {safe_name(name) for name in spec.candidate.packed("candidate_")}
    for given in model.graph.input:
        _name_axes(given, (USERS, CANDIDATES) if given.name in of_candidates else (USERS,))
    for output in model.graph.output:
        _name_axes(output, (USERS, CANDIDATES))
    return renamed(model, own)


def _name_axes(value: Any, axes: Sequence[str]) -> None:
    for dimension, name in zip(value.type.tensor_type.shape.dim, axes, strict=False):
        dimension.dim_param = name
