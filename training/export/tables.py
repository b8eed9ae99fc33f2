"""Takes tables of embeddings out of exported models: their rows become inputs, and lie beside the models.

Works on the ONNX files alone, whoever trained them: a table is taken out where a `Gather` reads it by the
codes of its column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from contract.arrays import Array, Floats
from contract.bundle import RANKER, USER_TOWER, Inputs, ModelSpec, RankerSpec, TableSpec
from contract.encoders import Field
from training.export.towers import ExportError

TOLERANCE = 1e-6
"""What taking a table out may change of an output: nothing but the order of its sums."""
USERS, CANDIDATES = 7, 3
"""On which a model with its tables is compared with that without."""
PROBED = (2, 3)
"""Users and candidates that a graph is asked for, to see what it reads of them."""


def take_out(
    folder: Path,
    columns: Sequence[str],
    fields: Mapping[str, Field],
    tower: ModelSpec,
    ranker: RankerSpec,
) -> tuple[ModelSpec, RankerSpec, tuple[TableSpec, ...]]:
    """Takes the tables of columns out of a bundle's user tower and ranker, and writes each, float32 (codes,
    W), beside them; gives what the models take now, and the tables.

    Raises:
        ExportError: no model has such a table, or it cannot be taken out.
    """
    if not columns:
        return tower, ranker, ()
    of_tower, from_tower = without_tables(folder / tower.file, {"": tower}, columns, fields)
    sides = {"user_": ranker.user, "candidate_": ranker.candidate}
    of_ranker, from_ranker = without_tables(folder / ranker.file, sides, columns, fields)
    tower = ModelSpec(**dict(of_tower[""]) | {"file": tower.file, "output": tower.output})
    ranker = ranker.model_copy(update={"user": of_ranker["user_"], "candidate": of_ranker["candidate_"]})
    tables = []
    for column in columns:
        both = ((USER_TOWER, from_tower), (RANKER, from_ranker))
        taken = {taker: found[column] for taker, found in both if column in found}
        if not taken:
            raise ExportError(f"SHORTLIST_TABLES_BESIDE: no model reads {column} as a category; leave it out")
        widths = {taker: table.shape[1] for taker, table in taken.items()}
        tables.append(TableSpec(column=column, file=f"{column}_rows.npy", parts=widths))
        np.save(folder / tables[-1].file, np.concatenate(list(taken.values()), axis=1))
    return tower, ranker, tuple(tables)


def without_tables(
    path: Path, sides: Mapping[str, Inputs], columns: Sequence[str], fields: Mapping[str, Field]
) -> tuple[dict[str, Inputs], dict[str, Floats]]:
    """Takes the tables of columns out of a model's file, as far as it has any; `sides` is what it takes, by
    the prefix of its inputs. Gives what it takes now, and the tables, (codes, W) by column.

    Raises:
        ExportError: one cannot be taken out, or the model answers otherwise without.
    """
    whole, left, tables = onnx.load(path), dict(sides), dict[str, Floats]()
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    for column, prefix in product(columns, sides):
        if column in sides[prefix].categorical:
            place, codes = left[prefix].categorical.index(column), fields[column].cardinality
            tables[column] = cut(model, f"{prefix}categorical", place, column, codes)
            left[prefix] = _with_rows(left[prefix], column, tables[column].shape[1])
    if tables:
        onnx.checker.check_model(model)
        _compare(path.name, (whole, sides), (model, left), tables, fields)
        path.write_bytes(model.SerializeToString())
    return left, tables


def cut(model: onnx.ModelProto, packed: str, place: int, column: str, codes: int) -> Floats:
    """Cuts the table of the column at a place of a packed input out of a model, in place; gives it, (codes,
    W). The packed input loses the column, and an input of its name gives the rows, (..., W).

    Raises:
        ExportError: no `Gather` reads one by it, or its rows cannot be told from others'.
    """
    graph = _Graph(model, packed, column)
    reads = graph.reads(place)
    if not reads or len({read.table for read in reads}) < len(reads):
        raise ExportError(f"{model.graph.name}: reads no table of its own by the codes of {column}")
    tables = [graph.take(read, codes, f"{column}_part_{at}") for at, read in enumerate(reads)]
    graph.give_rows([table.shape[1] for table in tables])
    graph.narrow(place)
    graph.tidy()
    return np.concatenate(tables, axis=1)


@dataclass(frozen=True)
class _Read:
    """A `Gather` that reads a table by a column's codes, from row `start` on: by all of them, or by what is
    at `place` of their last axis; `shape` is theirs, of the rows `PROBED`."""

    node: onnx.NodeProto
    start: int
    place: int | None
    shape: tuple[int, ...]

    @property
    def table(self) -> str:
        """The constant that it reads."""
        return str(self.node.input[0])


class _Graph:
    """A model's graph, out of which the tables of a column are cut that one packed input has codes of."""

    def __init__(self, model: onnx.ModelProto, packed: str, column: str) -> None:
        self.model, self.graph, self.packed, self.column = model, model.graph, packed, column
        self.constants = {one.name: one for one in self.graph.initializer}
        given = next(one for one in self.graph.input if one.name == packed)
        self.dims = [one.dim_param or one.dim_value or None for one in given.type.tensor_type.shape.dim]
        self.lead = PROBED[: len(self.dims) - 1]
        self._made = 0

    def reads(self, place: int) -> list[_Read]:
        """Finds what is read by the codes at a place: what changes where these do."""
        gathers = [
            node for node in self.graph.node if node.op_type == "Gather" and self._is_table(node.input[0])
        ]
        names = list(dict.fromkeys(node.input[1] for node in gathers))
        zeros = example_inputs(self.model, *PROBED)
        ones = {name: array.copy() for name, array in zeros.items()}
        ones[self.packed][..., place] = 1
        before, after = (self._values(names, given) for given in (zeros, ones))
        found = []
        for node in gathers:
            codes, changed = before[node.input[1]], before[node.input[1]] != after[node.input[1]]
            if changed.all():
                found.append(_Read(node, int(codes.flat[0]), None, codes.shape))
            elif changed.any():
                at = int(np.flatnonzero(changed.reshape(-1, changed.shape[-1]).any(axis=0))[0])
                if not changed[..., at].all() or changed.sum() * changed.shape[-1] != changed.size:
                    raise ExportError(f"{self.graph.name}: reads rows of {self.column} mixed with others")
                found.append(_Read(node, int(codes[..., at].flat[0]), at, codes.shape))
        return found

    def take(self, read: _Read, codes: int, part: str) -> Floats:
        """Takes out what is read of a table, and lets `part` stand for it."""
        table, output = numpy_helper.to_array(self.constants[read.table]), read.node.output[0]
        if read.place is None:
            self.graph.node.remove(read.node)
            self._shaped(part, output, read.shape, table.shape[1])
        else:
            remaining = read.node.output[0] = f"{output}_kept"
            before, after = (0, read.place), (read.place + 1, read.shape[-1])
            pieces = [
                [self._slice(remaining, *piece, axis=-2)] if piece[0] < piece[1] else []
                for piece in (before, after)
            ]
            row = self._node("Unsqueeze", [part, self._ints(-2)])
            self._node("Concat", [*pieces[0], row, *pieces[1]], output, axis=-2)
        self._shorten(read, codes, len(table))
        return np.array(table[read.start : read.start + codes], dtype=np.float32)

    def give_rows(self, widths: Sequence[int]) -> None:
        """Adds the input of the rows, and cuts it into parts."""
        given = helper.make_tensor_value_info(self.column, TensorProto.FLOAT, [*self.dims[:-1], sum(widths)])
        self.graph.input.append(given)
        ends = np.cumsum(widths).tolist()
        for at, (width, end) in enumerate(zip(widths, ends, strict=True)):
            self._slice(self.column, end - width, end, axis=-1, output=f"{self.column}_part_{at}")

    def narrow(self, place: int) -> None:
        """Takes the column out of the packed input; where its codes were, the graph has zeros."""
        wide, last, count = f"{self.packed}_and_{self.column}", len(self.dims) - 1, int(self.dims[-1] or 0)
        for node in self.graph.node:
            node.input[:] = [wide if name == self.packed else name for name in node.input]
        lead = self._slice(self._node("Shape", [self.column]), 0, last, axis=0)
        shape = self._node("Concat", [lead, self._ints(1)], axis=0)
        zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
        zeros = self._node("ConstantOfShape", [shape], value=zero)
        others = [one for one in self.graph.input if one.name != self.packed]
        del self.graph.input[:]
        self.graph.input.extend(others)
        before, after = [], []
        if count > 1:
            narrow = [*self.dims[:-1], count - 1]
            self.graph.input.append(helper.make_tensor_value_info(self.packed, TensorProto.INT64, narrow))
            before = [self._slice(self.packed, 0, place, axis=-1)] if place else []
            after = [self._slice(self.packed, place, count - 1, axis=-1)] if place < count - 1 else []
        self._node("Concat", [*before, zeros, *after], wide, axis=-1)

    def tidy(self) -> None:
        """Drops what nobody reads any more, and puts nodes behind those that they read."""
        makers = {name: node for node in self.graph.node for name in node.output}
        order: dict[str, onnx.NodeProto] = {}
        waiting = [output.name for output in self.graph.output]
        while waiting:
            node = makers.get(waiting[-1])
            needed = (
                []
                if node is None
                else [n for n in node.input if n in makers and makers[n].output[0] not in order]
            )
            if node is not None and needed and node.output[0] not in order:
                waiting += needed
                continue
            waiting.pop()
            if node is not None:
                order.setdefault(node.output[0], node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order.values()]
        read = {name for node in nodes for name in node.input}
        used = [one for one in self.constants.values() if one.name in read]
        used += [one for one in self.graph.initializer if one.name in read and one.name not in self.constants]
        constants = [onnx.TensorProto.FromString(one.SerializeToString()) for one in used]
        for field, left in ((self.graph.node, nodes), (self.graph.initializer, constants)):
            del field[:]
            field.extend(left)
        del self.graph.value_info[:]

    def _is_table(self, name: str) -> bool:
        found = self.constants.get(name)
        return found is not None and found.data_type == TensorProto.FLOAT and len(found.dims) == 2

    def _values(self, names: Sequence[str], given: Mapping[str, Array]) -> dict[str, Array]:
        """Gives what stands under names where the model is asked."""
        probed = onnx.ModelProto()
        probed.CopyFrom(self.model)
        fixed = {
            name: numpy_helper.to_array(self.constants[name]) for name in names if name in self.constants
        }
        known = {**given, **fixed}
        missing = [name for name in names if name not in known]
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
        session = ort.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
        return known | dict(zip(missing, session.run(missing, dict(given)) if missing else [], strict=True))

    def _shaped(self, part: str, output: str, shape: tuple[int, ...], width: int) -> None:
        """Gives the rows the shape that was read: that of the codes, and W."""
        lead = self.lead
        if shape[: len(lead)] == lead:
            more = range(len(lead), len(shape))
            operator, inputs = ("Unsqueeze", [part, self._ints(*more)]) if more else ("Identity", [part])
            self._node(operator, inputs, output)
        elif shape[0] == int(np.prod(lead)):
            self._node("Reshape", [part, self._ints(-1, *shape[1:], width)], output)
        else:
            raise ExportError(
                f"{self.graph.name}: reads {self.column} in a shape that rows cannot be given in"
            )

    def _shorten(self, read: _Read, codes: int, rows: int) -> None:
        """Takes the rows out of a table, but the first, for the zeros; others read theirs as before."""
        readers = [node for node in self.graph.node if read.table in node.input]
        if not readers:
            return
        if rows == codes or any(node.op_type != "Gather" for node in readers):
            raise ExportError(f"{self.graph.name}: reads the table of {self.column} by other columns as well")
        table = numpy_helper.to_array(self.constants[read.table])
        left = np.delete(table, np.arange(read.start + 1, read.start + codes), axis=0)
        self.constants[read.table].CopyFrom(numpy_helper.from_array(left, read.table))
        for node in readers:
            is_behind = self._node("GreaterOrEqual", [node.input[1], self._ints(read.start + codes)])
            fewer = self._node(
                "Mul", [self._node("Cast", [is_behind], to=TensorProto.INT64), self._ints(codes - 1)]
            )
            node.input[1] = self._node("Sub", [node.input[1], fewer])

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{self.column}_{kind}_{self._made}"

    def _node(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or self._name(operator.lower())
        self.graph.node.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def _ints(self, *values: int) -> str:
        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def _slice(self, name: str, start: int, end: int, *, axis: int, output: str = "") -> str:
        return self._node("Slice", [name, self._ints(start), self._ints(end), self._ints(axis)], output)


def example_inputs(model: onnx.ModelProto, users: int, candidates: int) -> dict[str, Array]:
    """Makes zeros for every input of a model: axes that may be of any length are first users, then
    candidates."""
    made = {}
    for given in model.graph.input:
        kind, any_length = given.type.tensor_type, iter((users, candidates))
        shape = [one.dim_value or next(any_length) for one in kind.shape.dim]
        made[given.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return made


def _with_rows(inputs: Inputs, column: str, width: int) -> Inputs:
    left = inputs.without([column])
    return left.model_copy(update={"embeddings": {**left.embeddings, column: width}})


def _compare(
    file: str,
    whole: tuple[onnx.ModelProto, Mapping[str, Inputs]],
    cut_out: tuple[onnx.ModelProto, Mapping[str, Inputs]],
    tables: Mapping[str, Floats],
    fields: Mapping[str, Field],
) -> None:
    """Asks both models, each with what it takes by the prefix of its inputs, for the same rows at random.

    Raises:
        ExportError: they answer otherwise.
    """
    rng, given = np.random.default_rng(0), dict[str, dict[str, Array]]()
    for prefix, inputs in whole[1].items():
        lead = (USERS, CANDIDATES) if prefix == "candidate_" else (USERS,)
        columns: dict[str, Array] = {name: rng.normal(size=lead) for name in inputs.numeric}
        columns |= {n: rng.normal(size=(*lead, length)) for n, length in inputs.embeddings.items()}
        columns |= {n: rng.integers(fields[n].cardinality, size=lead) for n in inputs.categorical}
        lists = inputs.lists.items()
        columns |= {n: rng.integers(fields[n].cardinality, size=(*lead, length)) for n, length in lists}
        given[prefix] = columns
    answers = []
    for model, sides in (whole, cut_out):
        packed: dict[str, Array] = {}
        for prefix, inputs in sides.items():
            rows = {name: tables[name][given[prefix][name]] for name in inputs.embeddings if name in tables}
            packed |= inputs.pack(given[prefix] | rows, prefix)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, packed)[0])
    worst = float(np.abs(answers[0] - answers[1]).max(initial=0.0))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"{file}: differs by {worst:.2g} without {', '.join(tables)}, more than {TOLERANCE:g}"
        )
