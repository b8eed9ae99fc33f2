"""The index of a bundle on one node or spread over several: asked all at once, and merged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from itertools import chain
from typing import Any

from redis.exceptions import ResponseError

from contract.arrays import Floats, Ids
from contract.filters import Filters
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.nodes import IndexNodes, Replies, ask_all
from ensemble.stores.vectors import RedisVectorIndex, is_missing


class SpreadVectorIndex:
    """Each node gives the nearest of its own items; the best of all are what one node with every item would
    have given, whichever of equal ones it would have left out. A node that does not answer is left out,
    and the index is not whole meanwhile."""

    def __init__(self, part: RedisVectorIndex, nodes: IndexNodes) -> None:
        """Takes the index on one node, as it is searched where it lies there alone, and the nodes."""
        self.part, self.nodes = part, nodes

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found, as far as the nodes' watches know."""
        return self.nodes.is_whole

    def grown(self, catalogue: Catalogue, live: LiveItems) -> SpreadVectorIndex:
        """Scores the items of another catalogue here; the nodes hold them already."""
        grown = copy(self)
        grown.part = self.part.grown(catalogue, live)
        return grown

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Finds the nearest items with one round trip to all nodes.

        Raises:
            StageError: `dependency`, no node has the index, or none is known to.
            RedisError: no node answers.
        """
        if not self.nodes.current:
            self.nodes.follow(self.nodes.redis)
        if not self.nodes.current:
            raise self.part.missing("run `make nodes`, or set SHORTLIST_INDEX_ENGINE=usearch")
        if self.nodes.is_alone:
            return self.part.search(vectors, counts, filters, width)
        commands = self.part.commands(vectors, counts, filters, width)
        answers = self._asked(commands)
        replies = [self._joined([answer[row] for answer in answers]) for row in range(len(vectors))]
        return self.part.read(replies, vectors, counts, width)

    def _asked(self, commands: Sequence[tuple[Any, ...]]) -> list[Replies]:
        """Asks every node that is not left out; where none answers, all of them."""
        nodes = [node for node in self.nodes.current if not node.is_away] or [*self.nodes.current]
        started = time.perf_counter()
        answers = ask_all(nodes, commands, self.nodes.timeout_s)
        self.nodes.redis.seconds += time.perf_counter() - started
        found: list[Replies] = []
        first: Exception | None = None
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, Exception):
                node.failed(answer)
                first = first or answer
            else:
                node.answered()
                found.append(answer)
        if not found and first is not None:
            raise self.part.missing() if isinstance(first, ResponseError) and is_missing(first) else first
        return found

    def _joined(self, replies: Sequence[Replies]) -> Replies:
        """Makes one reply of several, each item once: while items move, two nodes may have one."""
        if self.part.catalogue is not None:  # keys alone
            return [0, *dict.fromkeys(chain.from_iterable(reply[1:] for reply in replies))]
        pairs = {
            key: fields for reply in replies for key, fields in zip(reply[1::2], reply[2::2], strict=True)
        }
        return [0, *chain.from_iterable(pairs.items())]
