"""Merlin's graph as the straight chain that it is: its operators transform one table, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from merlin.dag import Graph, Node

from contract.arrays import Array
from ensemble.stage import Tensors

Before = Callable[[str, Tensors], Tensors]
"""Takes a stage's name and the table so far, gives the table to go on with; an empty one ends the chain."""


def chain_of(graph: Graph) -> list[Node]:
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


def run_chain(chain: Sequence[Node], tensors: Mapping[str, Array], before: Before | None = None) -> Tensors:
    """Transforms a table by one operator after the other; every tensor stays, so that the last table explains
    the answer.

    `before` may take rows out of the table before each stage; where it leaves none, the rest is not run.

    Raises:
        StageError: a stage failed.
    """
    table = dict(tensors)
    for node in chain:
        if before is not None and not (table := before(node.op.name, table)):
            return {}
        table = node.op.transform(node.selector, table)
    return table
