"""The ranker as it is served: one ONNX graph in which whatever depends on the user alone runs once per user.

Training sees one row per exposure; serving asks for K candidates of each user. So the graph takes users
(B, ...) and candidates (B, K, ...): a user's embeddings, pooled lists and share of the first layers are
computed once and broadcast. numpy and onnx only; `training/export/ranker.py` compares the graph with
TensorFlow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from contract.arrays import Floats
from contract.bundle import Inputs, RankerSpec
from contract.encoders import PAD_CODE
from training.examples.safe_names import safe_name
from training.ranking.onnx_graph import GraphBuilder
from training.ranking.weights import DlrmWeights, Layer

FEW = 8
"""Elements up to which a list's vectors are added one by one; a matrix product per candidate costs more."""
BOTTOM = "bottom_block"
"""What Merlin calls the vector of the numerics among those that interact."""


def ranker_graph(spec: RankerSpec, members: Sequence[DlrmWeights], offset: float = 0.0) -> onnx.ModelProto:
    """Builds the graph: P(click) float32 (B,K), of the mean logit of the members plus `offset`.

    Source: Naumov et al. 2019, section 2, as Merlin's DLRMBlock computes it: the dot products of all pairs of
    vectors, and beside them the vector of the numerics, into the top layers.

    Raises:
        ValueError: users, or candidates, have neither a categorical nor a list.
    """
    for side, inputs in (("user", spec.user), ("candidate", spec.candidate)):
        if not (inputs.categorical or inputs.lists):
            raise ValueError(f"the ranker needs a categorical or a list of the {side}")
    graph = GraphBuilder("ranker")
    sizes = {name: len(table) for name, table in members[0].tables.items()}
    starts = {name: sum(list(sizes.values())[:at]) for at, name in enumerate(sizes)}
    user = _side(graph, spec.user, "user", ("users",), starts)
    candidate = _side(graph, spec.candidate, "candidate", ("users", "candidates"), starts)
    logits = [_logit(graph, weights, user, candidate) for weights in members]
    total = graph.call("Sum", *logits) if len(logits) > 1 else logits[0]
    mean = graph.call("Mul", total, graph.constant(np.float32(1 / len(logits))))
    logit = graph.call("Add", mean, graph.constant(np.float32(offset)))
    scores = graph.call("Squeeze", graph.call("Sigmoid", logit), graph.axes(-1))
    return graph.model(scores, spec.output, np.float32, ("users", "candidates"))


@dataclass(frozen=True)
class _Side:
    """The inputs of users or of candidates, as far as all members share them.

    The tables of all columns are joined, so that one Gather serves them: codes are rows of the joined table.
    """

    names: tuple[str, ...]
    """Safe names of the categoricals, then of the lists: the order of `vectors`."""
    list_names: tuple[str, ...]
    codes: str
    lists: tuple[_PaddedList, ...]
    numeric: str
    numeric_names: tuple[str, ...]

    def vectors(self, graph: GraphBuilder, table: str) -> list[str]:
        """Looks up and pools: (..., C, width) of the categoricals, (..., 1, width) of each list."""
        found = [graph.call("Gather", table, self.codes)] if self.codes else []
        return found + [padded.mean(graph, table) for padded in self.lists]


@dataclass(frozen=True)
class _PaddedList:
    """The codes (..., S) of a list's elements, each (..., 1) where they are few, and 1 / their count, padding
    apart, (..., 1, 1). The rows of padding in the tables are zeros."""

    codes: str
    elements: tuple[str, ...]
    share: str

    @classmethod
    def of(cls, graph: GraphBuilder, given: str, length: int, start: int) -> _PaddedList:
        """Takes the input's name; its table begins at `start` of the joined one."""
        is_element = graph.call("Not", graph.call("Equal", given, graph.axes(PAD_CODE)))
        counted = graph.call("Cast", is_element, to=onnx.TensorProto.FLOAT)
        count = graph.call("ReduceSum", counted, graph.axes(-1), keepdims=1)
        divisor = graph.call("Max", count, graph.constant(np.float32(1)))
        share = graph.call("Unsqueeze", graph.call("Reciprocal", divisor), graph.axes(-2))
        codes = graph.call("Add", given, graph.axes(start))
        places = range(length if length <= FEW else 0)
        return cls(codes, tuple(graph.call("Gather", codes, graph.axes(at), axis=-1) for at in places), share)

    def mean(self, graph: GraphBuilder, table: str) -> str:
        """Gives the mean of its elements' vectors, (..., 1, width)."""
        if self.elements:
            total = graph.call("Sum", *(graph.call("Gather", table, element) for element in self.elements))
        else:
            vectors = graph.call("Gather", table, self.codes)
            total = graph.call("ReduceSum", vectors, graph.axes(-2), keepdims=1)
        return graph.call("Mul", total, self.share)


def _side(
    graph: GraphBuilder, inputs: Inputs, name: str, axes: tuple[str, ...], starts: Mapping[str, int]
) -> _Side:
    codes = numeric = ""
    if inputs.categorical:
        given = graph.input(f"{name}_categorical", np.int64, (*axes, len(inputs.categorical)))
        codes = graph.call(
            "Add", given, graph.axes(*(starts[safe_name(column)] for column in inputs.categorical))
        )
    if inputs.numeric:
        numeric = graph.input(f"{name}_numeric", np.float32, (*axes, len(inputs.numeric)))
    lists = []
    for column, length in inputs.lists.items():
        given = graph.input(column, np.int64, (*axes, length))
        lists.append(_PaddedList.of(graph, given, length, starts[safe_name(column)]))
    list_names = tuple(map(safe_name, inputs.lists))
    embedded = (*map(safe_name, inputs.categorical), *list_names)
    numeric_names = tuple(map(safe_name, inputs.numeric))
    return _Side(embedded, list_names, codes, tuple(lists), numeric, numeric_names)


def _joined(weights: DlrmWeights, lists: Collection[str]) -> Floats:
    """Joins the tables; padding of a list has zeros, so that it adds nothing."""
    tables = {name: table.copy() for name, table in weights.tables.items()}
    for name in lists:
        tables[name][PAD_CODE] = 0
    return np.concatenate(list(tables.values()))


def _logit(graph: GraphBuilder, weights: DlrmWeights, user: _Side, candidate: _Side) -> str:
    """Computes one member's logits (B,K,1).

    With u the vectors of a user and v those of a candidate, the first top layer is the user's share,
    W_uu (u u') + b, plus W_uv (v u') + W_vv (v v') per candidate; the numerics' vector is one of v, and W_b
    of it is added as well. It is one of u where no candidate has numerics.
    """
    table = graph.constant(_joined(weights, {*user.list_names, *candidate.list_names}))
    u_names, v_names = list(user.names), list(candidate.names)
    u, v = user.vectors(graph, table), candidate.vectors(graph, table)
    bottom = _bottom(graph, weights, user, candidate) if weights.bottom else ""
    numerics_of = (v_names, v) if candidate.numeric else (u_names, u)
    if bottom:
        numerics_of[0].append(BOTTOM)
        numerics_of[1].append(graph.call("Unsqueeze", bottom, graph.axes(-2)))
    kernel = _FirstKernel(weights)
    users, candidates = graph.call("Concat", *u, axis=-2), graph.call("Concat", *v, axis=-2)
    width, pairs = kernel.width, len(v_names) * len(u_names)
    turned = graph.call("Transpose", users, perm=[0, 2, 1])
    uu = graph.call("Reshape", graph.call("MatMul", users, turned), graph.axes(0, -1))
    flat = graph.call("Reshape", candidates, graph.axes(0, -1, width))
    uv = graph.call("Reshape", graph.call("MatMul", flat, turned), graph.axes(0, -1, pairs))
    beside = graph.call("Transpose", candidates, perm=[0, 1, 3, 2])
    vv = graph.call("Reshape", graph.call("MatMul", candidates, beside), graph.axes(0, 0, len(v_names) ** 2))
    of_users = [(uu, kernel.of_pairs(u_names, u_names))]
    of_candidates = [(uv, kernel.of_pairs(v_names, u_names)), (vv, kernel.of_pairs(v_names, v_names))]
    if bottom:
        (of_candidates if candidate.numeric else of_users).append((bottom, kernel.of_bottom))
    first, *rest = (*weights.top, weights.head)
    share = graph.call("Add", _linear(graph, of_users), graph.constant(first.bias))
    hidden = graph.call("Add", _linear(graph, of_candidates), graph.call("Unsqueeze", share, graph.axes(1)))
    for layer in rest:
        hidden = _dense(graph, graph.call("Relu", hidden), layer)
    return hidden


def _bottom(graph: GraphBuilder, weights: DlrmWeights, user: _Side, candidate: _Side) -> str:
    """Computes the numerics' vector: (B,K,width), or (B,width) where only users have numerics."""
    first, *rest = weights.bottom
    order = sorted((*user.numeric_names, *candidate.numeric_names))

    def share(side: _Side) -> str:
        return _linear(graph, [(side.numeric, first.kernel[[order.index(n) for n in side.numeric_names]])])

    hidden = graph.constant(first.bias)
    if user.numeric:
        hidden = graph.call("Add", share(user), hidden)
    if candidate.numeric:
        of_users = graph.call("Unsqueeze", hidden, graph.axes(1)) if user.numeric else hidden
        hidden = graph.call("Add", share(candidate), of_users)
    for layer in rest:
        hidden = _dense(graph, graph.call("Relu", hidden), layer)
    return hidden


class _FirstKernel:
    """The first top layer's kernel: rows for the numerics' vector, then for the pairs of vectors, by name."""

    def __init__(self, weights: DlrmWeights) -> None:
        kernel = weights.top[0].kernel
        self.width = next(iter(weights.tables.values())).shape[1]
        self.names = sorted((*weights.tables, *([BOTTOM] if weights.bottom else [])))
        self.of_bottom, self._pairs = np.split(kernel, [self.width if weights.bottom else 0])
        first, second = np.triu_indices(len(self.names), k=1)
        self._row = {
            (a, b): row for row, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True))
        }

    def of_pairs(self, left: Sequence[str], right: Sequence[str]) -> Floats:
        """Gives the rows of all products left x right, (len(left) * len(right), outputs).

        Where both are the same, a pair stands twice and a vector beside itself: what stands twice has its row
        once, what is no pair has zeros.
        """
        rows = np.zeros((len(left), len(right), self._pairs.shape[1]), dtype=np.float32)
        for i, a in enumerate(left):
            for j, b in enumerate(right):
                if left is not right or i < j:
                    pair = sorted((self.names.index(a), self.names.index(b)))
                    rows[i, j] = self._pairs[self._row[pair[0], pair[1]]]
        return rows.reshape(-1, self._pairs.shape[1])


def _linear(graph: GraphBuilder, parts: Sequence[tuple[str, Floats]]) -> str:
    """Multiplies the parts of a layer's input, each with its rows of the kernel, in one product."""
    inputs = [name for name, _ in parts]
    joined = graph.call("Concat", *inputs, axis=-1) if len(inputs) > 1 else inputs[0]
    return graph.call("MatMul", joined, graph.constant(np.concatenate([rows for _, rows in parts])))


def _dense(graph: GraphBuilder, value: str, layer: Layer) -> str:
    return graph.call("Add", _linear(graph, [(value, layer.kernel)]), graph.constant(layer.bias))
