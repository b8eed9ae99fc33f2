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
    users, candidates = _vectors(graph, members, user, candidate)
    logits = [_logit(graph, *of_member) for of_member in zip(members, users, candidates, strict=True)]
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


@dataclass(frozen=True)
class _Vectors:
    """One member's vectors of users (B,U,width) or of candidates (B,K,V,width), by name; and that of the
    numerics, (B,width) or (B,K,width), which is among them, where it is theirs."""

    names: tuple[str, ...]
    all: str
    bottom: str = ""


def _vectors(
    graph: GraphBuilder, members: Sequence[DlrmWeights], user: _Side, candidate: _Side
) -> tuple[list[_Vectors], list[_Vectors]]:
    """Looks up for all members at once, and gives each its own of users and of candidates.

    The rows of their tables lie beside each other, so that a code costs one read of memory. The numerics'
    vector is a candidate's, or a user's where no candidate has numerics.
    """
    table = graph.constant(_joined(members, {*user.list_names, *candidate.list_names}))
    bottom = _bottom(graph, [weights.bottom for weights in members], user, candidate)

    def given(side: _Side, bottom: str) -> list[_Vectors]:
        numerics = [graph.call("Unsqueeze", bottom, graph.axes(-2))] if bottom else []
        every = graph.call("Concat", *side.vectors(graph, table), *numerics, axis=-2)
        names = (*side.names, *([BOTTOM] if bottom else []))
        bottoms = graph.split(bottom, len(members), axis=-1) if bottom else [""] * len(members)
        vectors = zip(graph.split(every, len(members), axis=-1), bottoms, strict=True)
        return [_Vectors(names, *of_member) for of_member in vectors]

    of_users, of_candidates = ("", bottom) if candidate.numeric else (bottom, "")
    return given(user, of_users), given(candidate, of_candidates)


def _joined(members: Sequence[DlrmWeights], lists: Collection[str]) -> Floats:
    """Joins the tables, (codes of all, members * width); padding of a list has zeros, so that it adds
    nothing."""
    tables = {
        name: np.concatenate([weights.tables[name] for weights in members], axis=1)
        for name in members[0].tables
    }
    for name in lists:
        tables[name][PAD_CODE] = 0
    return np.concatenate(list(tables.values()))


def _logit(graph: GraphBuilder, weights: DlrmWeights, u: _Vectors, v: _Vectors) -> str:
    """Computes one member's logits (B,K,1).

    With u the vectors of a user and v those of a candidate, the first top layer is the user's share,
    W_uu (u u') + b, plus W_uv (v u') + W_vv (v v') per candidate; W_b of the numerics' vector is added on
    the side that has it.
    """
    kernel, of_u, of_v = _FirstKernel(weights), len(u.names), len(v.names)
    turned = graph.call("Transpose", u.all, perm=[0, 2, 1])
    once = np.flatnonzero(np.triu(np.ones((of_u, of_u)), k=1))
    uu = graph.call("Reshape", graph.call("MatMul", u.all, turned), graph.axes(0, -1))
    flat = graph.call("Reshape", v.all, graph.axes(0, -1, kernel.width))
    uv = graph.call("Reshape", graph.call("MatMul", flat, turned), graph.axes(0, -1, of_v * of_u))
    beside = graph.call("Transpose", v.all, perm=[0, 1, 3, 2])
    vv = graph.call("Reshape", graph.call("MatMul", v.all, beside), graph.axes(0, 0, of_v**2))
    of_users = [
        (graph.call("Gather", uu, graph.axes(*once), axis=-1), kernel.of_pairs(u.names, u.names)[once])
    ]
    of_candidates = [(uv, kernel.of_pairs(v.names, u.names)), (vv, kernel.of_pairs(v.names, v.names))]
    for parts, bottom in ((of_users, u.bottom), (of_candidates, v.bottom)):
        parts += [(bottom, kernel.of_bottom)] if bottom else []
    first, *rest = (*weights.top, weights.head)
    share = graph.call("Add", _linear(graph, of_users), graph.constant(first.bias))
    hidden = graph.call("Add", _linear(graph, of_candidates), graph.call("Unsqueeze", share, graph.axes(1)))
    for layer in rest:
        hidden = _dense(graph, graph.call("Relu", hidden), layer)
    return hidden


def _bottom(graph: GraphBuilder, members: Sequence[tuple[Layer, ...]], user: _Side, candidate: _Side) -> str:
    """Computes the numerics' vectors of all members beside each other: (B,K,members * width), or
    (B,members * width) where only users have numerics; nothing where nobody has."""
    if not members[0]:
        return ""
    first, *rest = (_beside(layers, is_first=at == 0) for at, layers in enumerate(zip(*members, strict=True)))
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


def _beside(layers: Sequence[Layer], is_first: bool) -> Layer:
    """Makes one layer of the members': of the same input at first, then each of its own part."""
    bias = np.concatenate([layer.bias for layer in layers])
    kernels = [layer.kernel for layer in layers]
    if is_first:
        return Layer(np.concatenate(kernels, axis=1), bias)
    none = [np.zeros_like(kernel) for kernel in kernels]
    rows = [[*none[:at], kernel, *none[at + 1 :]] for at, kernel in enumerate(kernels)]
    return Layer(np.block(rows), bias)


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
