"""The stages of a straight chain, run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from merlin.dag import Graph, Node
from merlin.table import NumpyColumn, TensorTable

from ensemble.stage import Array, Stage, Tensors

Before = Callable[[int, Tensors], Tensors | None]
"""Takes a stage's place in the line and the table so far, gives the table to go on with; None ends it."""


def line(graph: Graph) -> list[Node]:
    """Lists the nodes of a straight chain, first stage first.

    Raises:
        ValueError: the graph branches.
    """
    nodes, node = [], graph.output_node
    while node.parents:
        if len(node.parents_with_dependencies) != 1:
            raise ValueError(
                f"{node.op.label} has {len(node.parents_with_dependencies)} parents; the chain must be a line"
            )
        nodes.append(node)
        node = node.parents[0]
    return nodes[::-1]


def run_line(stages: Sequence[Stage], tensors: Mapping[str, Array], before: Before | None = None) -> Tensors:
    """Runs stages one after the other; every tensor stays, so that the last table explains the answer.

    `before` may take rows out of the table before each stage; where it leaves none, the rest is not run.

    Raises:
        StageError: a stage failed.
    """
    table = dict(tensors)
    for place, stage in enumerate(stages):
        if before is not None:
            going_on = before(place, table)
            if going_on is None:
                return {}
            table = going_on
        table.update(stage.add(table))
    return table


def to_table(tensors: Mapping[str, Any]) -> TensorTable:
    """Wraps arrays in Merlin's table, without copying."""
    return TensorTable(
        {name: NumpyColumn(array, _unsafe=True) for name, array in tensors.items()}, _unsafe=True
    )
